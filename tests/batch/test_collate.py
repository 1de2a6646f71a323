from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.arrange import longest_first
from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.batch.split import chains
from agentsft.types import TokenTree
from tests.batch.trees import lessons, token_trees


def unpacked(batch: MicroBatch) -> TokenTree:
    """The batch as one tree again; rows become trees side by side, their padding roots without targets."""
    rows, columns = batch.input_ids.shape
    if batch.subtree_end is not None:
        end = batch.subtree_end.numpy()
    else:
        real = np.ones((rows, columns), bool) if batch.attention_mask is None else batch.attention_mask.numpy()
        starts = np.arange(rows)[:, None] * columns
        own = starts + np.arange(1, columns + 1)
        end = np.where(real, starts + real.sum(1, keepdims=True), own).ravel()
    target_rows = np.repeat(np.arange(len(batch.rows)), np.diff(batch.row_start))
    assert target_rows.tolist() == batch.row.tolist()
    return TokenTree(
        input_ids=batch.input_ids.numpy().ravel(),
        position_ids=batch.position_ids.numpy().ravel(),
        subtree_end=end,
        source=batch.rows.numpy()[batch.row.numpy()],
        token=batch.token.numpy(),
        weight=batch.weight.numpy(),
        label=batch.label.numpy(),
    )


@settings(deadline=None)
@given(st.lists(token_trees(), max_size=5), st.sampled_from([1, 8, 128]))
def test_a_forest_keeps_contexts_targets_and_positions(trees: list[TokenTree], multiple: int) -> None:
    batch = collate(Pack(tuple(trees)), multiple)
    assert lessons([unpacked(batch)]) == lessons(trees)
    n = sum(map(len, trees))
    assert batch.input_ids.shape == (1, max(-(-n // multiple), 1 if multiple == 1 else 2) * multiple)
    positions = np.concatenate([tree.position_ids for tree in trees]) if trees else []
    assert batch.position_ids[0, :n].tolist() == list(positions)
    assert (np.diff(batch.rows) > 0).all()


@settings(deadline=None)
@given(st.lists(token_trees(), max_size=5))
def test_rows_keep_contexts_and_targets_and_mask_padding_alone(trees: list[TokenTree]) -> None:
    paths = [path for tree in trees for path in chains(tree)]
    batch = collate(Pack(tuple(paths), rows=True))
    assert lessons([unpacked(batch)]) == lessons(trees)
    lengths = [len(path) for path in paths]
    if batch.attention_mask is None:
        assert len(set(lengths)) <= 1
    else:
        assert batch.attention_mask.sum(1).tolist() == lengths


@settings(deadline=None)
@given(st.lists(token_trees(), max_size=5), st.sampled_from([1, 128]))
def test_any_order_in_memory_keeps_contexts_targets_and_positions(trees: list[TokenTree], multiple: int) -> None:
    plain, batch = collate(Pack(tuple(trees)), multiple), collate(Pack(tuple(trees)), multiple, arrange=True)
    assert batch.dfs is not None
    back = np.argsort(batch.dfs.numpy())
    for name in ("input_ids", "position_ids", "subtree_end"):
        ours, theirs = getattr(batch, name).ravel(), getattr(plain, name).ravel()
        assert ours[back].tolist() == theirs.tolist()
    source = batch.dfs.numpy()[batch.rows.numpy()[batch.row.numpy()]]
    ordered = replace(unpacked(plain), source=source, token=batch.token.numpy(), weight=batch.weight.numpy())
    assert lessons([replace(ordered, label=batch.label.numpy())]) == lessons(trees)
    assert (np.diff(batch.rows) > 0).all()


@settings(deadline=None)
@given(token_trees())
def test_the_longest_path_lies_first_and_each_token_behind_its_ancestors(tree: TokenTree) -> None:
    order = longest_first(tree)
    assert sorted(order.tolist()) == list(range(len(tree)))
    longest = int(tree.position_ids.max()) + 1
    assert tree.position_ids[order[:longest]].tolist() == list(range(longest))
    place = np.argsort(order)
    for q in range(len(tree)):
        seen = [k for k in range(q) if q < tree.subtree_end[k]]
        assert all(place[k] < place[q] for k in seen)


def test_a_dummy_has_a_token_and_no_target() -> None:
    for rows in (False, True):
        batch = collate(Pack((), rows))
        assert batch.input_ids.shape == (1, 1)
        assert len(batch.rows) == len(batch.token) == 0
