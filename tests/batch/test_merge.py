from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.merge import LEAST_SHARED, alike, merge_trees
from agentsft.encode.tree import TurnIds, build_tree
from agentsft.types import TokenTree
from tests.batch.trees import context, lessons, token_trees


@st.composite
def conversations(draw: st.DrawFn) -> TokenTree:
    """A tree that begins as many others do: with one of few beginnings, cut anywhere."""
    start = draw(st.sampled_from([[1] * 40, [1] * 20 + [2] * 20, [3] * 40]))
    start = start[: draw(st.integers(1, 40))]
    turns = []
    for k in range(draw(st.integers(1, 3))):
        prompt = [*start, *draw(st.lists(st.integers(1, 3), max_size=4)), 10 + k]
        response = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
        ones = np.ones(len(response), np.float32)
        turns.append(TurnIds(np.array(prompt, np.int32), np.array(response, np.int32), ones, ones.astype(np.int8)))
        if draw(st.booleans()):
            start = [*prompt, *response]
    return build_tree(turns)


def contexts(trees: list[TokenTree]) -> set[tuple[int, ...]]:
    return {context(tree, q) for tree in trees for q in range(len(tree))}


@settings(max_examples=300, deadline=None)
@given(st.lists(conversations() | token_trees(), min_size=1, max_size=6))
def test_a_merged_tree_teaches_what_its_trees_teach(trees: list[TokenTree]) -> None:
    merged = merge_trees(trees)
    assert lessons([merged]) == lessons(trees)
    assert contexts([merged]) == contexts(trees)
    for q in range(len(merged)):
        assert merged.position_ids[q] == len(context(merged, q)) - 1


@settings(max_examples=200, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=6))
def test_chains_merge_into_a_trie_that_holds_no_beginning_twice(trees: list[TokenTree]) -> None:
    chained = [tree for tree in trees if tree.is_chain]
    if chained:
        assert len(merge_trees(chained)) == len(contexts(chained))


def _trunk_length(tree: TokenTree) -> int:
    return next((n for n in range(len(tree)) if tree.subtree_end[n] != len(tree)), len(tree))


@given(st.lists(conversations(), min_size=1, max_size=6))
def test_groups_hold_every_tree_once_and_share_what_they_say(trees: list[TokenTree]) -> None:
    groups = alike(trees)
    assert sorted(id(tree) for members, _ in groups for tree in members) == sorted(map(id, trees))
    for members, shared in groups:
        if len(members) == 1:
            assert shared == 0
            continue
        assert shared >= LEAST_SHARED
        assert len({tuple(tree.input_ids[:shared].tolist()) for tree in members}) == 1
        assert all(_trunk_length(tree) >= shared for tree in members)
        assert len(merge_trees(members)) <= sum(map(len, members)) - shared * (len(members) - 1)
