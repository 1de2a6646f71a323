"""Tokens as people read them: each with its text, segment, label and weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from agentsft.encode.prepare import Preparer
from agentsft.encode.tree import leaf_paths
from agentsft.types import LABELS, Example, Segment, Turn


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


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One root-to-leaf path of a `TreeView`.

    Its first `shared` tokens are those of the path before it; its own are the tree's from `start` on, up to the next
    path's. `owners` int32[l] numbers the segment of each of its l tokens.
    """

    start: int
    shared: int
    segments: tuple[Segment, ...]
    owners: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class TreeView:
    """A tree as people read it: its n tokens once each, in depth-first order.

    `ids` int32[n] and `texts` as in `TokenView`; `label_ids` int8[n] indexes `LABELS`, -1 where a token is not
    trained, and `weights` float32[n] is 0 there.
    """

    ids: np.ndarray
    texts: list[str]
    label_ids: np.ndarray
    weights: np.ndarray
    branches: tuple[Branch, ...]

    def own(self, number: int) -> range:
        """The tree's positions of the tokens that path `number` does not share with the paths before it."""
        following = self.branches[number + 1 :]
        return range(self.branches[number].start, following[0].start if following else len(self.ids))


def tree_view(preparer: Preparer, example: Example) -> TreeView:
    """The view of an example that is not refused. Time is linear in its tree and in the segments of its paths."""
    tree = example.tree
    assert tree is not None
    ids, label_ids, weights = tree.input_ids, np.full(len(tree), -1, np.int8), np.zeros(len(tree), np.float32)
    texts: list[str] = []
    branches: list[Branch] = []
    offsets = _Offsets(preparer)
    last_leaf = -1
    paths = zip(preparer.sequences(example), preparer.leaves(example), leaf_paths(tree), strict=True)
    for sequence, leaf, path in paths:
        shared = int(np.searchsorted(path, last_leaf, side="right"))
        start, last_leaf = len(texts), int(path[-1])
        trained = np.flatnonzero(sequence.label_ids >= 0)
        label_ids[path[trained]] = sequence.label_ids[trained]
        weights[path[trained]] = sequence.loss_scale[trained]
        begins, ends = offsets.behind(leaf, shared, len(path))
        borders = np.cumsum([0] + [len(segment.text) for segment in sequence.segments])
        owners = np.clip(np.searchsorted(borders, begins, side="right") - 1, 0, len(sequence.segments) - 1)
        text = leaf.prompt + leaf.response + leaf.suffix
        shown = np.maximum.accumulate(ends)
        lows = np.maximum(begins, np.concatenate([begins[:1], shown[:-1]])).tolist()
        texts += [text[low:high] for low, high in zip(lows, ends.tolist(), strict=True)]
        earlier = branches[-1].owners[:shared] if branches else owners[:0]
        branches.append(Branch(start, shared, sequence.segments, np.concatenate([earlier, owners]).astype(np.int32)))
    return TreeView(ids, texts, label_ids, weights, tuple(branches))


class _Offsets:
    """Where tokens stand in the text of their path; each chunk between added tokens is looked at once."""

    def __init__(self, preparer: Preparer) -> None:
        self._encoder = preparer.encoder
        self._backend = preparer.tokenizer.backend_tokenizer
        self._known: dict[str, np.ndarray] = {}
        self._text = ""
        self._chunks: list[str] = []

    def behind(self, leaf: Turn, shared: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Characters [start, end), int64[length - shared] each, of the path's tokens behind the first `shared`."""
        kept, own_chunks = self._encoder.chunks_after(self._text, self._chunks, leaf.prompt)
        self._text, self._chunks = leaf.prompt, [*self._chunks[:kept], *own_chunks]
        parts, tokens, at = [], 0, 0
        for chunk in self._chunks:
            count = len(self._encoder.ids_of([chunk]))
            if tokens + count > shared:
                parts.append(self._of(chunk)[max(shared - tokens, 0) :] + at)
            tokens, at = tokens + count, at + len(chunk)
        response = self._encoder.encode_responses([leaf])[0]
        own = np.stack([response.start, response.end], axis=1)[max(shared - tokens, 0) :]
        found = np.concatenate([*parts, own.astype(np.int64) + at])
        assert len(found) == length - shared
        return found[:, 0], found[:, 1]

    def _of(self, chunk: str) -> np.ndarray:
        """int64[k, 2]: where the tokens of a chunk begin and end in it, without a gap."""
        if chunk not in self._known:
            encoding = self._backend.encode(chunk, add_special_tokens=False)
            flat = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            if len(flat):  # some tokenizers trim white space; a token owns all characters since the one before it
                flat[1:, 0] = np.minimum(flat[1:, 0], np.maximum.accumulate(flat[:, 1])[:-1])
                flat[0, 0] = 0
            self._known[chunk] = flat
        return self._known[chunk]
