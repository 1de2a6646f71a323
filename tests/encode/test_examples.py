"""Examples in shards are those that went in, and a killed preparation goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.config import TrainConfig
from agentsft.encode import cache, examples, parallel
from agentsft.encode.cache import prepare_cached, prepared
from agentsft.encode.examples import collected
from agentsft.encode.load import load_preparer
from agentsft.encode.tree import split_tokens
from agentsft.errors import UserError
from agentsft.types import Example, Refusal
from tests.batch.trees import random_tree
from tests.encode.test_parallel import facts, write_rows

ROWS = 60


def some(seed: int, count: int) -> list[Example]:
    """Refused, cut and whole examples, trees that branch or not, ids of all kinds."""
    random = np.random.default_rng(seed)
    made = []
    for k in range(count):
        tree = random_tree(random, int(random.integers(2, 40))) if random.random() < 0.8 else None
        fault = Refusal("too_long", f"détail {k}", k % 3 or None)
        made.append(
            Example(
                index=k,
                source=f"a/ü.jsonl:{k + 1}",
                tree=tree,
                refusal=None if tree else fault,
                lost=fault if tree and random.random() < 0.3 else None,
                lost_turns=k % 4,
                lost_tokens=k,
                straddling=k % 2,
                split_tokens=split_tokens(tree) if tree else 0,
                id=(None, "", f"id {k}", str(k), 'q"\ud800')[k % 5],
                turn_count=k % 5,
                task=None if k % 7 == 0 else f"{k:032x}",
            )
        )
    return made


@given(st.integers(0, 999), st.integers(0, 30), st.integers(1, 9), st.integers(1, 120))
@settings(max_examples=40, deadline=None)
def test_what_comes_out_of_shards_is_what_went_in(seed: int, count: int, rows: int, tokens: int) -> None:
    whole = some(seed, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "MOST_ROWS", rows)
        patch.setattr(examples, "MOST_TOKENS", tokens)
        kept = collected(iter(whole))
    assert [facts(one) for one in kept] == [facts(one) for one in whole]
    assert all(len(shard) <= rows for shard in kept.shards)
    with_tree = [one for one in whole if one.tree is not None]
    trees = [one.tree for one in with_tree]
    assert [tree.input_ids.tolist() for tree in kept.trees] == [tree.input_ids.tolist() for tree in trees]
    assert kept.trees.lengths.tolist() == [len(tree) for tree in trees]
    assert [one.index for one in kept.faulty()] == [one.index for one in whole if one.refusal or one.lost]
    chosen = kept.select(kept.column("has_tree") == 1)
    assert chosen.column("depth").tolist() == [int(tree.position_ids.max()) + 1 for tree in trees]
    assert chosen.column("trained").tolist() == [int((tree.weight > 0).sum()) for tree in trees]
    assert list(chosen.texts("source")) == [one.source for one in with_tree]
    both = chosen[::2] + collected(whole[::-1])
    assert [facts(one) for one in both] == [facts(one) for one in with_tree[::2] + whole[::-1]]
    assert both.column("index").tolist() == [one.index for one in with_tree[::2] + whole[::-1]]


def test_the_digest_tells_other_trees_and_orders_apart() -> None:
    whole = [one for one in some(1, 12) if one.tree is not None]
    tree = whole[0].tree
    assert tree is not None
    changes = [
        whole[::-1],
        whole[1:],
        [replace(whole[0], tree=replace(tree, weight=tree.weight * 2)), *whole[1:]],
        [replace(whole[0], tree=replace(tree, token=tree.token + 1)), *whole[1:]],
        [replace(whole[0], tree=replace(tree, input_ids=tree.input_ids + 1)), *whole[1:]],
        [replace(whole[0], tree=replace(tree, subtree_end=np.full_like(tree.subtree_end, len(tree)))), *whole[1:]],
    ]
    digests = [collected(change).digest() for change in [whole, *changes]]
    assert len(set(digests)) == len(digests) - (tree.is_chain)
    assert collected(whole).digest() == digests[0]


@pytest.fixture
def config(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setenv("AGENTSFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(examples, "MOST_ROWS", 16)
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    return TrainConfig(model=str(smollm2), data=[str(data)], max_length=120, num_proc=1)


def test_a_preparation_that_was_killed_goes_on_behind_its_last_whole_shard(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preparer = load_preparer(config)
    whole = [facts(one) for one in parallel.prepare_compact(config, preparer)]
    skipped: list[int] = []
    real = parallel.prepare_compact

    def killed_at(rows: int | None) -> Any:
        def prepare(config: Any, preparer: Any, paths: Any, skip: int) -> Iterator[Example]:
            skipped.append(skip)
            yield from islice(real(config, preparer, paths, skip), rows)
            if rows is not None:
                raise KeyboardInterrupt

        return prepare

    for rows in (10, 20, 18):
        monkeypatch.setattr(cache, "prepare_compact", killed_at(rows))
        with pytest.raises(KeyboardInterrupt):
            prepare_cached(config, preparer)
    assert prepared(config, preparer) is None
    (tmp_path / "cache" / "prepared" / "stray.part").write_bytes(b"of another run")
    monkeypatch.setattr(cache, "prepare_compact", killed_at(None))
    advanced: list[int] = []
    assert [facts(one) for one in prepare_cached(config, preparer, advance=advanced.append)] == whole
    assert skipped == [0, 0, 16, 32]
    assert advanced[0] == 32
    assert sum(advanced) == ROWS
    found = prepared(config, preparer)
    assert found is not None
    assert [facts(one) for one in found] == whole


def test_only_what_is_behind_a_damaged_shard_is_prepared_anew(
    config: TrainConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    preparer = load_preparer(config)
    whole = [facts(one) for one in prepare_cached(config, preparer)]
    files = sorted((tmp_path / "cache" / "prepared").glob("*.safetensors"))
    assert len(files) == 4
    before = files[1].stat().st_mtime_ns
    files[2].write_bytes(files[2].read_bytes()[:-1])
    advanced: list[int] = []
    assert [facts(one) for one in prepare_cached(config, preparer, advance=advanced.append)] == whole
    assert "damaged" in caplog.text
    assert advanced[0] == 32
    assert files[1].stat().st_mtime_ns == before


def test_large_data_is_verified_when_it_is_read(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    preparer = load_preparer(config)
    prepare_cached(config, preparer)
    file = min((tmp_path / "cache" / "prepared").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    ids = prepare_cached(config, preparer).shards[0]._arrays["input_ids"]
    at = data.find(ids.tobytes())
    data[at] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(cache, "VERIFIED", 0)
    found = prepare_cached(config, preparer)
    assert "damaged" not in caplog.text
    assert len(found.trees[len(found.trees) - 1]) > 0
    with pytest.raises(UserError, match=r"00000\.safetensors: .* damaged; delete it"):
        found.trees[0]
