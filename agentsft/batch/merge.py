"""Trees of several conversations that begin alike, as one tree: what they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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


def alike(trees: Sequence[TokenTree], fill: int) -> list[tuple[list[TokenTree], int]]:
    """`trees` in groups that begin alike, each with the number of tokens that all of it share.

    All conversations of a template share a few tokens, those of one policy and tool list many more. Of the groups
    within groups those are taken whose bins of `fill` tokens save most. A tree that is in none is a group of its own,
    with nothing to share.
    """
    ordered, shared = order_alike(trees)
    tokens = np.cumsum([0, *map(len, ordered)])
    open_groups = [_Group(0, 0)]  # each within the one before it
    for last, following in enumerate([*shared[1:], 0][: len(ordered)]):
        if following > open_groups[-1].common:
            open_groups.append(_Group(following, last))
        open_groups[-1].parts.append((last, last + 1, 0))
        while open_groups[-1].common > following:
            group = open_groups.pop()
            if following > open_groups[-1].common:
                open_groups.append(_Group(following, group.start))
            saved, parts = group.best(last + 1, int(tokens[last + 1] - tokens[group.start]), fill)
            open_groups[-1].saved += saved
            open_groups[-1].parts += parts
    return [(ordered[start:stop], common) for start, stop, common in open_groups[0].parts]


@dataclass
class _Group:
    """Neighbours from `start` on that share `common` tokens; `parts` are (start, stop, common) of groups within it,
    and `saved` the tokens that they save."""

    common: int
    start: int
    saved: int = 0
    parts: list[tuple[int, int, int]] = field(default_factory=list)

    def best(self, stop: int, tokens: int, fill: int) -> tuple[int, list[tuple[int, int, int]]]:
        """What this group of `tokens` tokens, up to `stop`, saves: as a whole or in parts, whichever saves more."""
        count, room = stop - self.start, fill - self.common
        bins = min(max(-(-(tokens - count * self.common) // room), 1), count) if room > 0 else count
        whole = (count - bins) * self.common
        if self.common < LEAST_SHARED or whole < self.saved:
            return self.saved, self.parts
        return whole, [(self.start, stop, self.common)]


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
