"""The order of a tree's tokens in memory: free, since the mask knows each token's depth-first index."""

from __future__ import annotations

import numpy as np

from agentsft.types import TokenTree


def longest_first(tree: TokenTree) -> np.ndarray:
    """Depth-first indices in the order of memory, int64[n]: the longest path, then what branches off it, each likewise.

    Long paths in one piece make attention's blocks full or empty; depth-first order cuts them at every branch.
    """
    parts = []
    depth = tree.position_ids
    stack = [(0, len(tree))] if len(tree) else []
    while stack:
        start, stop = stack.pop()
        if depth[stop - 1] - depth[start] == stop - 1 - start:  # one path, as most branches are
            parts.append(np.arange(start, stop))
            continue
        path = _longest_path(tree, start, stop)
        parts.append(path)
        stack += reversed(_between(path, start, stop))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _longest_path(tree: TokenTree, start: int, stop: int) -> np.ndarray:
    """The path to the deepest token of [start, stop), which holds whole subtrees, int64."""
    leaf = start + int(tree.position_ids[start:stop].argmax())
    return start + np.flatnonzero(tree.subtree_end[start : leaf + 1] > leaf)


def _between(path: np.ndarray, start: int, stop: int) -> list[tuple[int, int]]:
    """The gaps that a path leaves in [start, stop)."""
    bounds = np.concatenate([[start - 1], path, [stop]])
    gaps = np.flatnonzero(np.diff(bounds) > 1)
    return [(int(bounds[gap]) + 1, int(bounds[gap + 1])) for gap in gaps]
