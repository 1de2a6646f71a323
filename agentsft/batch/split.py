"""Cutting a token tree into smaller trees that train the same targets in the same contexts."""

from __future__ import annotations

import numpy as np

from agentsft.encode.tree import leaves
from agentsft.types import TokenTree


def split_tree(tree: TokenTree, budget: int) -> list[TokenTree]:
    """`tree` as subtrees of at most `budget` tokens, which repeat the trunk that they share.

    Each target is in exactly one of them, with the ancestors that it sees. A single path that is longer than the
    budget stays whole. Neighbouring leaves share most, so a piece takes as many consecutive leaves as fit.
    """
    if len(tree) <= budget:
        return [tree]
    pieces = []
    first, ends = 0, leaves(tree)
    done = 0  # tokens below `done` belong to earlier pieces
    while first < len(ends):
        trunk = _ancestors(tree, int(ends[first]), done)
        room = done + budget - len(trunk)
        last = max(int(np.searchsorted(ends, room)) - 1, first)
        stop = int(ends[last]) + 1
        pieces.append(_take(tree, np.concatenate([trunk, np.arange(done, stop)]), done, stop))
        first, done = last + 1, stop
    return pieces


def chains(tree: TokenTree) -> list[TokenTree]:
    """The root-to-leaf paths of `tree` as chains; a target that several paths contain is in the first of them."""
    return [tree] if tree.is_chain else split_tree(tree, 0)


def _ancestors(tree: TokenTree, leaf: int, before: int) -> np.ndarray:
    """Positions below `before` that the token at `leaf` sees, ascending."""
    return np.flatnonzero(tree.subtree_end[:before] > leaf)


def _take(tree: TokenTree, keep: np.ndarray, start: int, stop: int) -> TokenTree:
    """The tokens at `keep` (ascending, closed under ancestors) with the targets whose source is in [start, stop)."""
    mine = (tree.source >= start) & (tree.source < stop)
    return TokenTree(
        input_ids=tree.input_ids[keep],
        position_ids=tree.position_ids[keep],
        subtree_end=np.searchsorted(keep, tree.subtree_end[keep]).astype(np.int32),
        source=np.searchsorted(keep, tree.source[mine]).astype(np.int32),
        token=tree.token[mine],
        weight=tree.weight[mine],
        label=tree.label[mine],
    )
