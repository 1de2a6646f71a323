"""Trees of several conversations that begin alike, as one tree: what they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from agentsft.encode.tree import common_length
from agentsft.types import TokenTree

LEAST_SHARED = 16
"""Conversations that share fewer tokens than this are not put together for it."""


def trunk(tree: TokenTree) -> np.ndarray:
    """The ids before the first fork, int32[t]: the tokens that all behind them see."""
    whole = tree.subtree_end == len(tree)
    return tree.input_ids if whole.all() else tree.input_ids[: int(whole.argmin())]


def order_alike(trees: Sequence[TokenTree]) -> tuple[list[TokenTree], list[int]]:
    """`trees` in an order in which those that begin alike are neighbours, and what each shares with the one before."""
    ordered = sorted(trees, key=lambda tree: (trunk(tree).tobytes(), len(tree)))
    trunks = [trunk(tree) for tree in ordered]
    return ordered, [0, *(common_length(a, b) for a, b in pairwise(trunks))][: len(ordered)]


def alike(trees: Sequence[TokenTree]) -> list[tuple[list[TokenTree], int]]:
    """`trees` in groups that share at least LEAST_SHARED tokens, with the number that all of a group share.

    A tree that is like no other is a group of its own, with nothing to share.
    """
    ordered, shared = order_alike(trees)
    groups: list[tuple[list[TokenTree], int]] = []
    for tree, length in zip(ordered, shared, strict=True):
        if groups and length >= LEAST_SHARED:
            members, common = groups[-1]
            groups[-1] = ([*members, tree], min(common or length, length))
        else:
            groups.append(([tree], 0))
    return groups


def merge_trees(trees: Sequence[TokenTree]) -> TokenTree:
    """The forest that teaches what `trees` teach, with every common beginning once. Its order is depth first.

    In the order of `order_alike` a tree shares with the one before it all that it shares with any earlier one, so each
    shared token's subtree stays in one piece, and ends where the last tree ends that has it.
    """
    if len(trees) == 1:
        return trees[0]
    ordered, shared = order_alike(trees)
    parts = [tree.input_ids[length:] for tree, length in zip(ordered, shared, strict=True)]
    subtree_end = np.empty(sum(map(len, parts)), np.int32)
    sources = []
    offset, place = 0, np.empty(0, np.int32)
    for tree, length in zip(ordered, shared, strict=True):
        end = offset + len(tree) - length
        place = np.concatenate([place[:length], np.arange(offset, end, dtype=np.int32)])
        subtree_end[offset:end] = tree.subtree_end[length:] + (offset - length)
        subtree_end[place[:length]] = end
        sources.append(place[tree.source])
        offset = end
    return TokenTree(
        input_ids=np.concatenate(parts),
        position_ids=np.concatenate([t.position_ids[length:] for t, length in zip(ordered, shared, strict=True)]),
        subtree_end=subtree_end,
        source=np.concatenate(sources),
        token=np.concatenate([tree.token for tree in ordered]),
        weight=np.concatenate([tree.weight for tree in ordered]),
        label=np.concatenate([tree.label for tree in ordered]),
    )
