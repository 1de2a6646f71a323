from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.pack import Pack, Planner, StepPlan
from agentsft.types import LABELS, TokenTree
from tests.batch.trees import lessons, random_tree, token_trees

PLANNERS = st.builds(
    Planner,
    budget=st.integers(10, 80),
    fill=st.integers(5, 10),
    world=st.integers(1, 4),
    split=st.booleans(),
    rows=st.just(False),
    pair_cost=st.sampled_from([0.0, 0.01]),
    share=st.booleans(),
) | st.builds(
    Planner, budget=st.just(60), fill=st.just(60), world=st.integers(1, 4), split=st.just(True), rows=st.booleans()
)


def shape(plan: StepPlan) -> list[list[list[int]]]:
    return [[[len(tree) for tree in pack.trees] for pack in rank] for rank in plan.ranks]


@settings(max_examples=200, deadline=None)
@given(st.lists(token_trees(), max_size=8), PLANNERS)
def test_a_plan_teaches_each_target_once_within_the_budget(trees: list[TokenTree], planner: Planner) -> None:
    plan = planner.plan(trees)
    packed = [tree for pack in plan.packs for tree in pack.trees]
    assert lessons(packed) == lessons(trees)
    assert len({len(rank) for rank in plan.ranks}) == 1
    assert plan.num_items == sum(len(tree.source) for tree in trees) == plan.label_counts.sum()
    assert plan.weights == sum(float(tree.weight.sum()) for tree in trees)
    for pack in plan.packs:
        assert pack.size <= planner.budget or (len(pack.trees) == 1 and pack.trees[0].is_chain)
        assert not pack.rows or all(tree.is_chain for tree in pack.trees)
    assert shape(planner.plan(trees)) == shape(plan)


def test_no_rank_idles_where_there_is_work_for_all_and_loads_are_even() -> None:
    random = np.random.default_rng(0)
    trees = [random_tree(random, int(n)) for n in random.integers(50, 400, 40)]
    for world in (2, 3, 8):
        plan = Planner(budget=2000, fill=2000, world=world).plan(trees)
        loads = [sum(pack.tokens for pack in rank) for rank in plan.ranks]
        assert all(pack.trees for pack in plan.packs)
        assert max(loads) < 1.2 * min(loads)


def test_packs_are_nearly_full() -> None:
    random = np.random.default_rng(0)
    trees = [random_tree(random, int(n)) for n in random.integers(50, 400, 60)]
    packs = Planner(budget=2000, fill=2000).plan(trees).packs
    assert len(packs) == -(-sum(map(len, trees)) // 2000)


def test_a_target_of_weight_zero_is_neither_counted_nor_computed() -> None:
    tree = random_tree(np.random.default_rng(0), 20)
    nothing = TokenTree(
        *(getattr(tree, name) for name in ("input_ids", "position_ids", "subtree_end", "source", "token")),
        weight=np.zeros_like(tree.weight),
        label=tree.label,
    )
    plan = Planner(budget=100, fill=100, world=2).plan([nothing])
    assert (plan.num_items, plan.weights, plan.packs) == (0, 0.0, [])
    assert plan.label_counts.tolist() == [0] * len(LABELS)


def test_padding_of_rows_counts_towards_the_budget() -> None:
    trees = [random_tree(np.random.default_rng(n), n, branching=0) for n in (10, 9, 9, 9)]
    assert Pack(tuple(trees), rows=True).size == 40
    packs = Planner(budget=30, fill=30, split=True, rows=True).plan(trees).packs
    assert [[len(tree) for tree in pack.trees] for pack in packs] == [[10, 9, 9], [9]]
