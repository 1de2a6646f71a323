"""A weight says how often a source's rows are seen in an epoch, exactly and again in the same way."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.config import TrainConfig, build
from agentsft.data.entries import with_entries
from agentsft.data.mixture import (
    GROUPS,
    Marked,
    Mixture,
    by_label,
    check_weights,
    loss_by_source,
    source_numbers,
)
from agentsft.data.read import read_rows
from agentsft.errors import UserError
from agentsft.types import LABELS
from tests.batch.trees import random_tree

SOURCES = st.lists(st.tuples(st.integers(1, 40), st.floats(0.05, 4)), min_size=1, max_size=4)


def mixture(sources: list[tuple[int, float]], seed: int = 0) -> Mixture:
    rows = np.repeat(np.arange(len(sources)), [n for n, _ in sources])
    return Mixture(rows, tuple(max(w, 1 / n) for n, w in sources), seed)


@given(SOURCES, st.integers(0, 99), st.integers(1, 7))
def test_after_any_epochs_all_rows_of_a_source_were_seen_equally_often_but_for_one_time(
    sources: list[tuple[int, float]], seed: int, epochs: int
) -> None:
    mixed = mixture(sources, seed)
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        rows = mixed.rows(epoch)
        assert len(rows) == len(mixed)
        assert rows.tolist() == mixture(sources, seed).rows(epoch).tolist()
        seen.update(rows.tolist())
    for number, (n, weight) in enumerate(zip([n for n, _ in sources], mixed.weights, strict=True)):
        times = [seen[int(row)] for row in np.flatnonzero(mixed.source == number)]
        assert max(times) - min(times) <= 1
        assert sum(times) == epochs * mixed.counts()[number][1]
        assert abs(sum(times) / epochs - weight * n) <= 0.5 + 1e-9
        assert min(times) >= epochs * math.floor(weight)


def test_weights_of_one_leave_the_order_as_it_is_and_others_change_with_the_seed() -> None:
    assert mixture([(5, 1.0), (7, 1.0)]).rows(3).tolist() == list(range(12))
    half = [mixture([(40, 0.5)], seed).rows(0).tolist() for seed in (0, 0, 1)]
    assert half[0] == half[1] != half[2]
    assert sorted(half[0] + mixture([(40, 0.5)]).rows(1).tolist()) == list(range(40))


def test_a_weight_that_leaves_no_row_is_refused() -> None:
    with pytest.raises(UserError, match=r"b: 0.1 of 3 rows is less than one row an epoch"):
        Mixture(np.array([0, 1, 1, 1]), (1.0, 0.1), 0, ("a", "b"))


def test_what_a_weight_comes_to_is_said() -> None:
    mixed = Mixture(np.array([0, 0, 0, 0, 1]), (0.5, 3.0), 0, ("a", "b"))
    assert list(mixed.notes()) == [
        "a: 4 conversations, weight 0.5: 2 of the 5 of an epoch.",
        "b: 1 conversations, weight 3: 3 of the 5 of an epoch.",
    ]


def test_rows_know_the_entry_that_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    files = {"b.jsonl": 3, "more/a.jsonl": 2, "more/c.jsonl": 1, "a.jsonl": 4}
    for name, count in files.items():
        (tmp_path / name).write_text('{"messages": []}\n' * count, encoding="utf-8")
    paths = [str(tmp_path / name) for name in ("b.jsonl", "more", "a.jsonl")]
    where = [row.source for row in read_rows(paths)]
    assert source_numbers(where, paths).tolist() == [0] * 3 + [1] * 3 + [2] * 4
    assert source_numbers(where[4:], paths).tolist() == [1] * 2 + [2] * 4
    assert source_numbers(where[:3], paths).tolist() == [0] * 3
    with pytest.raises(UserError, match="name it once"):
        source_numbers(where, [*paths, str(tmp_path / "more" / "a.jsonl")])


def test_a_recipe_says_weights_beside_paths_and_comes_back_as_it_was_written() -> None:
    values = {"data": ["a.jsonl", {"path": "b.jsonl", "weight": 0.5}, {"path": "c"}], "seed": 3}
    plain = with_entries(values, "r.yaml")
    assert plain == {"data": ["a.jsonl", "b.jsonl", "c"], "data_weights": {"b.jsonl": 0.5}, "seed": 3}
    assert with_entries(plain, "r.yaml") == plain
    assert check_weights(plain["data"], plain["data_weights"]) == [1.0, 0.5, 1.0]
    assert with_entries({"data": "a.jsonl"}, "r.yaml") == {"data": "a.jsonl"}
    config = build(TrainConfig, values, "r.yaml")
    assert (config.data, config.data_weights) == (["a.jsonl", "b.jsonl", "c"], {"b.jsonl": 0.5})
    assert build(TrainConfig, vars(config), "r.yaml") == config


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"path": "a", "wieght": 2}], "unknown key 'wieght'.*weight"),
        ([{"weight": 2}], "needs a path"),
        ([{"path": "a", "weight": 2}, {"path": "a", "weight": 3}], "there twice"),
        ([{"path": "a", "weight": 0}], "above 0"),
        ([{"path": "a", "weight": "2"}], "above 0"),
        ([{"path": "a", "weight": True}], "above 0"),
        ([{"path": "a", "weight": float("nan")}], "above 0|NaN|nan"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(data: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_weights(*(with_entries({"data": data}, "r.yaml")[key] for key in ("data", "data_weights")))


def test_a_weight_for_a_path_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'Did you mean "rows.jsonl"'):
        check_weights(["rows.jsonl"], {"row.jsonl": 2.0})


def test_losses_of_sources_and_labels_add_up() -> None:
    random = np.random.default_rng(0)
    trees = [random_tree(random, 30) for _ in range(6)]
    source = np.array([0, 2, 0, 1, 2, 2])
    marked = Marked(trees, source)
    label = np.concatenate([tree.label for tree in marked])
    counts = np.bincount(label, minlength=GROUPS)
    nll = np.bincount(label, weights=np.ones(len(label)) * 3.0, minlength=GROUPS)
    assert by_label(counts).tolist() == sum(np.bincount(t.label, minlength=len(LABELS)) for t in trees).tolist()
    assert loss_by_source(nll, counts, ["a", "b", "c", "d"]) == {"a": 3.0, "b": 3.0, "c": 3.0}
    nll[len(LABELS) : 2 * len(LABELS)] *= 2
    assert loss_by_source(nll, counts, ["a", "b", "c"]) == {"a": 3.0, "b": 6.0, "c": 3.0}
    assert [tree.label.tolist() for tree in marked[1:3]] == [
        (trees[1].label + 2 * len(LABELS)).tolist(),
        trees[2].label.tolist(),
    ]
