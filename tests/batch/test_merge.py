from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.merge import LEAST_SHARED, alike, merge_trees
from agentsft.encode.tree import TurnIds, build_tree
from agentsft.types import TokenTree
from tests.batch.trees import context, lessons, random_tree, token_trees, with_beginning


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


@given(st.lists(conversations(), min_size=1, max_size=6), st.sampled_from([10, 50, 1000]))
def test_groups_hold_every_tree_once_and_share_what_they_say(trees: list[TokenTree], fill: int) -> None:
    groups = alike(trees, fill)
    assert sorted(id(tree) for members, _ in groups for tree in members) == sorted(map(id, trees))
    for members, shared in groups:
        if len(members) == 1:
            assert shared == 0
            continue
        assert shared >= LEAST_SHARED
        assert len({tuple(tree.input_ids[:shared].tolist()) for tree in members}) == 1
        assert all(_trunk_length(tree) >= shared for tree in members)
        assert len(merge_trees(members)) <= sum(map(len, members)) - shared * (len(members) - 1)


def test_conversations_are_grouped_by_their_policy_not_by_the_few_tokens_that_all_share() -> None:
    random = np.random.default_rng(0)
    policies = [[*range(20), *range(first, first + 100)] for first in (1000, 2000, 3000)]
    trees = [with_beginning(random_tree(random, 30, branching=0.0), policies[i % 3]) for i in range(12)]
    groups = alike(trees, 200)
    assert sorted(len(members) for members, _ in groups) == [4, 4, 4]
    assert all(shared >= 120 for _, shared in groups)
    few = [with_beginning(tree, list(range(20))) for tree in (random_tree(random, 30) for _ in range(6))]
    assert [len(members) for members, _ in alike(few, 200)] == [6]
