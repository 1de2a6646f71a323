"""The linear view: a tree as plain sequences, one for each root-to-leaf path."""

from __future__ import annotations

import numpy as np

from agentsft.encode.tree import leaf_paths
from agentsft.types import Sequence, TokenTree


def split_targets(tree: TokenTree) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each path with the targets that are its own: (positions int32[l], target numbers, their source's place in
    the path).

    A target belongs to the first path that holds its source followed by its token, so it is in exactly one.
    """
    out = []
    free = np.ones(len(tree.source), dtype=bool)
    place = np.full(len(tree), -1, dtype=np.int32)
    for path in leaf_paths(tree):
        place[:] = -1
        place[path] = np.arange(len(path))
        following = np.full(len(path) + 1, -1, dtype=np.int32)
        following[: len(path) - 1] = tree.input_ids[path[1:]]
        at = place[tree.source]
        own = np.flatnonzero(free & (at >= 0) & (following[at] == tree.token))
        free[own] = False
        out.append((path, own, at[own]))
    return out


def linear_view(tree: TokenTree) -> list[Sequence]:
    """The paths of a tree as aligned arrays, without segments. See `Sequence` for the form of the labels."""
    sequences = []
    for path, own, at in split_targets(tree):
        input_ids = tree.input_ids[path]
        labels = np.full(len(path), -100, dtype=np.int32)
        loss_scale = np.zeros(len(path), dtype=np.float32)
        label_ids = np.full(len(path), -1, dtype=np.int8)
        labels[at + 1] = tree.token[own]
        loss_scale[at + 1] = tree.weight[own]
        label_ids[at + 1] = tree.label[own]
        sequences.append(Sequence(input_ids, labels, loss_scale, tree.position_ids[path], label_ids))
    return sequences
