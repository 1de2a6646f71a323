from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.length import PASS, best_length
from agentsft.batch.pack import Planner
from agentsft.types import TokenTree
from tests.batch.trees import token_trees


def cost(planner: Planner, steps: list[list[TokenTree]], length: int) -> int:
    packs = [pack for step in steps for pack in replace(planner, fill=length).plan(step).packs]
    return sum(PASS + -(-max(pack.size, 1) // length) * length for pack in packs)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(token_trees(), min_size=1, max_size=5), min_size=1, max_size=3), st.integers(40, 120))
def test_the_length_holds_every_tree_and_costs_no_more_than_full_packs_would(
    steps: list[list[TokenTree]], budget: int
) -> None:
    planner = Planner(budget, budget, share=True)
    largest = max(len(tree) for step in steps for tree in step)
    length = best_length(planner, steps, largest, 8)
    whole = -(-budget // 8) * 8
    assert length % 8 == 0
    assert min(largest, budget) <= length <= whole
    assert cost(planner, steps, length) <= cost(planner, steps, whole)


def test_packs_that_would_be_half_empty_get_a_length_of_their_own() -> None:
    n = 600
    ids = np.arange(n, dtype=np.int32)
    one = np.ones(1, np.float32)
    trees = [
        TokenTree(ids + n * k, ids, np.full(n, n, np.int32), ids[:1], ids[:1], one, np.zeros(1, np.int8))
        for k in range(9)
    ]
    planner = Planner(5120, 5120)
    assert [pack.size for pack in planner.plan(trees).packs] == [8 * n, n]
    assert best_length(planner, [trees], n, 128) in range(5 * n, 6 * n)  # two packs of five and four
