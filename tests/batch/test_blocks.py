"""The blocks found from a forest's paths are those of its mask, pair by pair."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from agentsft.batch.blocks import FLEX_BLOCK, HALF, OF_HALVES, OF_KEYS, OF_QUERIES, lists_of
from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.train.attention import visible
from tests.batch.trees import random_tree


def forest(seed: int, trees: int, size: int, branching: float) -> MicroBatch:
    random = np.random.default_rng(seed)
    return collate(Pack(tuple(random_tree(random, size, branching) for _ in range(trees))), FLEX_BLOCK, arrange=True)


def expected(batch: MicroBatch, queries: int) -> list[torch.Tensor]:
    """For each block of keys, and of `queries`: whether every pair, and whether some, is visible."""
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    pairs = visible(batch.dfs[:, None], batch.dfs[None, :], batch.subtree_end[None, :])
    n = len(batch.dfs)
    seen = pairs.view(n // queries, queries, n // FLEX_BLOCK, FLEX_BLOCK).permute(0, 2, 1, 3).flatten(2)
    return [seen.any(2) & ~seen.all(2), seen.all(2)]


def grid(count: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The lists as bool: the first `count` of each row of `index`, which must ascend."""
    rows = torch.zeros(index.shape[2:], dtype=torch.bool)
    for row, (number, partners) in enumerate(zip(count[0, 0].tolist(), index[0, 0], strict=True)):
        assert partners[:number].tolist() == sorted(set(partners[:number].tolist()))
        rows[row, partners[:number].long()] = True
    return rows


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 400), st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
def test_blocks_are_those_of_the_mask(seed: int, trees: int, size: int, branching: float) -> None:
    batch = forest(seed, trees, size, branching)
    assert batch.blocks is not None
    n = batch.input_ids.shape[1]
    of_queries, of_keys, of_halves = (lists_of(batch.blocks, n, wanted) for wanted in (OF_QUERIES, OF_KEYS, OF_HALVES))
    for found, blocks in (
        (of_queries, expected(batch, FLEX_BLOCK)),
        (of_keys, expected(batch, FLEX_BLOCK)),
        (of_halves, expected(batch, HALF)),
    ):
        for pair, wanted in zip((found[:2], found[2:]), blocks, strict=True):
            assert torch.equal(grid(*pair), wanted if found is of_queries else wanted.T)


def test_the_lists_are_those_of_a_block_mask_made_by_torch() -> None:
    batch = forest(7, 5, 300, 0.1)
    assert batch.blocks is not None
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    dfs, end, n = batch.dfs, batch.subtree_end, batch.input_ids.shape[1]
    mask = create_block_mask(lambda b, h, q, k: visible(dfs[q], dfs[k], end[k]), None, None, n, n, device="cpu")
    theirs = [
        mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices,
        mask.q_num_blocks, mask.q_indices, mask.full_q_num_blocks, mask.full_q_indices,
    ]  # fmt: skip
    for ours, tensor in zip(lists_of(batch.blocks, n, range(8)), theirs, strict=True):
        assert ours.dtype == tensor.dtype
        assert torch.equal(ours, tensor)
