"""Which blocks of queries and keys a forest's mask allows, in whole or in part, found on the host from its paths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

FLEX_BLOCK = 128
"""Flex attention works on blocks of so many tokens; packs are padded to a multiple of it."""

HALF = 64
"""Queries of a block in FlashAttention-4's backward pass on Hopper."""

OF_QUERIES, OF_KEYS, OF_HALVES = range(4), range(4, 8), range(8, 12)
"""Which of the lists are about what, see `lists_of`."""


def block_lists(dfs: np.ndarray, subtree_end: np.ndarray) -> np.ndarray:
    """The lists of `lists_of`, one behind another, int32, for places of a forest in whole blocks.

    `dfs` and `subtree_end`, int32[n] each: the depth-first index of each place and the end of its subtree. For each
    block of keys or queries its partners in ascending order, behind them those that are none.
    """
    some, every = visible_blocks(dfs, subtree_end)
    halves = some & ~every, every
    some, every = some[0::2] | some[1::2], every[0::2] & every[1::2]
    lists = []
    for part in (some & ~every, every):
        lists += [part.sum(1), np.argsort(~part, axis=1, kind="stable")]
    for part in (some & ~every, every, *halves):
        lists += [part.sum(0), np.argsort(~part.T, axis=1, kind="stable")]
    return np.concatenate([array.ravel() for array in lists], dtype=np.int32)


def lists_of(blocks: torch.Tensor, n: int, wanted: range) -> list[torch.Tensor]:
    """Some of the twelve lists of `block_lists` for n tokens, each [1, 1, ...] for batch and head.

    `OF_QUERIES`: for each block of queries how many blocks of keys it sees in part, and which, and how many in whole,
    and which; `OF_KEYS` the same for each block of keys and its queries; `OF_HALVES` once more with blocks of `HALF`
    queries. They are copies: compiled code would be guarded by where views begin.
    """
    size, halves = n // FLEX_BLOCK, n // HALF
    columns = (size, size, size, size, halves, halves)
    shapes = [shape for others in columns for shape in ((1, 1, size), (1, 1, size, others))]
    parts = blocks.split([math.prod(shape) for shape in shapes])
    return [parts[number].view(shapes[number]).clone() for number in wanted]


def visible_blocks(dfs: np.ndarray, subtree_end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether any query of a block sees any key of another, and every one all: bool[n / HALF, n / FLEX_BLOCK] each.

    Keys that lie on one path, side by side in a block, are one run: who sees any of them sees the first, and who sees
    the last sees all. So a run is seen where depth-first indices of queries lie within the first one's subtree.
    """
    n = len(dfs)
    place = np.arange(n)
    on_path = np.append(False, (dfs[:-1] < dfs[1:]) & (dfs[1:] < subtree_end[:-1]))
    first = np.flatnonzero(~on_path | (place % FLEX_BLOCK == 0))
    last = np.append(first[1:], n) - 1
    queries = np.sort(dfs.reshape(-1, HALF), axis=1)
    low, high = queries[:, :1], queries[:, -1:]
    begin, end = dfs[first], subtree_end[first]
    some = ((begin <= low) & (low < end)) | ((begin <= high) & (high < end))
    block, run = np.nonzero((low < begin) & (end <= high))  # perhaps between the two
    in_order = queries + n * np.arange(len(queries))[:, None]
    at = np.searchsorted(in_order.ravel(), begin[run] + n * block)
    some[block, run] = queries.ravel()[at] < end[run]
    every = (dfs[last] <= low) & (high < subtree_end[last])
    of_block = np.searchsorted(first, place[::FLEX_BLOCK])
    return np.logical_or.reduceat(some, of_block, axis=1), np.logical_and.reduceat(every, of_block, axis=1)
