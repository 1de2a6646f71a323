"""Ranks with equal work, whatever conversations share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.level import Bin, Part, level
from agentsft.batch.merge import merge_trees
from agentsft.batch.pack import Planner
from agentsft.types import TokenTree
from tests.batch.trees import random_tree, with_beginning

PAIR_COST = 0.01


def conversations(random: np.random.Generator, group: int, count: int) -> list[TokenTree]:
    """Trees that share 20 tokens and no more."""
    beginning = list(range(1000 + 20 * group, 1020 + 20 * group))
    made = [random_tree(random, int(n), branching=0.0) for n in random.integers(5, 60, count)]
    for number, tree in enumerate(made):
        tree.input_ids[0] = 5000 + number
    return [with_beginning(tree, beginning) for tree in made]


@st.composite
def uneven(draw: st.DrawFn) -> list[list[Bin]]:
    """Two to four ranks of two bins each, with parts of up to four groups thrown in at random."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bins: list[Bin] = [[] for _ in range(2 * draw(st.integers(2, 4)))]
    for group in range(draw(st.integers(1, 4))):
        trees = conversations(random, group, draw(st.integers(len(bins), 20)))
        places = np.concatenate([np.arange(len(bins)), random.integers(0, len(bins), len(trees) - len(bins))])
        for number, each in enumerate(bins):
            members = [tree for tree, place in zip(trees, places, strict=True) if place == number]
            each.append(Part(merge_trees(members), members, group, 20))
    return [bins[i : i + 2] for i in range(0, len(bins), 2)]


def tokens(each: Bin) -> int:
    return sum(len(part) for part in each)


def loads(ranks: list[list[Bin]]) -> list[float]:
    planner = Planner(1, 1, pair_cost=PAIR_COST)
    return [sum(planner.cost([part.tree for part in each]) for each in rank) for rank in ranks]


def members(ranks: list[list[Bin]]) -> Counter[int]:
    return Counter(id(tree) for rank in ranks for each in rank for part in each for tree in part.members)


@settings(max_examples=100, deadline=None)
@given(uneven())
def test_conversations_change_places_and_the_costliest_rank_gains_nothing(ranks: list[list[Bin]]) -> None:
    largest = max(tokens(each) for rank in ranks for each in rank)
    levelled = level(ranks, PAIR_COST, largest)
    assert members(levelled) == members(ranks)
    assert [len(rank) for rank in levelled] == [len(rank) for rank in ranks]
    assert all(0 < tokens(each) <= largest for rank in levelled for each in rank)
    assert max(loads(levelled)) <= max(loads(ranks)) * (1 + 1e-9)
    for part in (part for rank in levelled for each in rank for part in each):
        assert len(part) == sum(map(len, part.members)) - 20 * (len(part.members) - 1)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_a_rank_does_at_most_a_percent_more_than_the_mean(world: int) -> None:
    random = np.random.default_rng(world)
    trees = [tree for group in range(6) for tree in conversations(random, group, 40)]
    planner = Planner(budget=600, fill=600, world=world, pair_cost=PAIR_COST, share=True)
    costs = [sum(planner.cost(pack.trees) for pack in rank) for rank in planner.plan(trees).ranks]
    assert max(costs) < 1.01 * np.mean(costs)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_a_path_longer_than_a_pack_makes_no_room_for_others(seed: int, world: int) -> None:
    random = np.random.default_rng(seed)
    trees = [random_tree(random, int(n), branching=0.0) for n in (160, *random.integers(5, 100, 3 * world))]
    plan = Planner(budget=100, fill=100, world=world, pair_cost=PAIR_COST, share=True).plan(trees)
    sizes = [[len(tree) for tree in pack.trees] for pack in plan.packs]
    assert [160] in sizes
    assert all(sum(pack) <= 100 for pack in sizes if pack != [160])
