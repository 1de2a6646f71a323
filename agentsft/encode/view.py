"""Tokens as people read them: each with its text, segment, label and weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from agentsft.encode.prepare import Preparer
from agentsft.encode.tree import leaf_paths
from agentsft.types import LABELS, Example, Segment


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token of a path. `text` is empty for the later tokens of a character that takes several.

    `label` and `weight` are None and 0 where the token is not trained in this path.
    """

    position: int
    id: int
    text: str
    kind: str
    message: int
    label: str | None
    weight: float


@dataclass(frozen=True, slots=True)
class PathView:
    """One root-to-leaf path; its first `shared` tokens are those of earlier paths, computed once with them."""

    tokens: tuple[TokenView, ...]
    segments: tuple[Segment, ...]
    shared: int


def path_views(preparer: Preparer, example: Example) -> list[PathView]:
    """The paths of an example, token by token; empty for a refused one."""
    if example.tree is None:
        return []
    views = []
    last_leaf = -1
    paths = zip(preparer.sequences(example), preparer.leaves(example), leaf_paths(example.tree), strict=True)
    for sequence, leaf, path in paths:
        text = leaf.prompt + leaf.response + leaf.suffix
        starts, ends = preparer.encoder.path_offsets(leaf)
        borders = np.cumsum([0] + [len(segment.text) for segment in sequence.segments])
        owners = np.clip(np.searchsorted(borders, starts, side="right") - 1, 0, len(sequence.segments) - 1)
        shown = np.concatenate([[0], np.maximum.accumulate(ends)])[:-1]
        tokens = []
        for k, number in enumerate(sequence.input_ids.tolist()):
            segment = sequence.segments[owners[k]]
            trained = sequence.label_ids[k] >= 0
            tokens.append(
                TokenView(
                    k,
                    number,
                    text[max(starts[k], shown[k]) : ends[k]],
                    segment.kind,
                    segment.message,
                    LABELS[sequence.label_ids[k]] if trained else None,
                    float(sequence.loss_scale[k]),
                )
            )
        views.append(PathView(tuple(tokens), sequence.segments, int(np.searchsorted(path, last_leaf, side="right"))))
        last_leaf = int(path[-1])
    return views


def count_tokens(views: list[PathView]) -> Counter[tuple[str, str]]:
    """Tokens of the tree, each counted once, by (segment kind, label or "not trained")."""
    counts: Counter[tuple[str, str]] = Counter()
    for view in views:
        for token in view.tokens[view.shared :]:
            counts[token.kind, token.label or "not trained"] += 1
    return counts
