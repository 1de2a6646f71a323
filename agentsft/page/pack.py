"""Rows as the page keeps them: every token of the tree once, as a number in one table of all rows, compressed.

A row of n tokens is an object of lists:

- `t` [n]: numbers in the page's table of (id, text),
- `c` [2r]: r runs of tokens, each its length and its number in the table of classes. A class is [label, weight], and
  where two strategies are compared [label, weight, label, weight]; the label of what is not trained is null,
- `p`: the root-to-leaf paths, each [shared, own, segments]: the first `shared` tokens of the path before it, then the
  next `own` ones of the tree. A segment is [kind, message, characters, tokens], characters in UTF-16 units as
  JavaScript counts them.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

from agentsft.encode.view import Branch, TreeView
from agentsft.types import LABELS, Example, Refusal

_Class = tuple[str | None, float] | tuple[str | None, float, str | None, float]


class Packer:
    """Packs rows one by one; the tables that they share grow with them and are packed last, in the index."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[int, str], int] = {}
        self._classes: dict[_Class, int] = {}
        self._rows: list[dict[str, Any]] = []

    def add(
        self, example: Example, view: TreeView | None, other: tuple[np.ndarray, np.ndarray, Example] | None = None
    ) -> str:
        """One row, as text without anything that HTML could take for markup; refused rows have no view.

        `other` is what a second strategy gives the same tokens: label_ids int8[n], weights float32[n], its example.
        """
        row: dict[str, Any] = {
            "row": example.index,
            "source": example.source,
            "refused": _refusal(example.refusal),
            "lost": example.lost
            and {"reason": example.lost.reason, "turns": example.lost_turns, "tokens": example.lost_tokens},
            "tokens": {
                "tree": 0 if view is None else len(view.ids),
                "split": example.split_tokens,
                "trained": 0 if view is None else int((view.label_ids >= 0).sum()),
                "straddling": example.straddling,
            },
            "counts": [],
        }
        if other is not None:
            row["otherRefused"] = _refusal(other[2].refusal)
        self._rows.append(row)
        if view is None:
            return packed({})
        classes = self._class_numbers(view, other)
        counts = np.bincount(classes)
        row["counts"] = [[int(n), int(counts[n])] for n in np.flatnonzero(counts)]
        ends = [*(branch.start for branch in view.branches[1:]), len(view.ids)]
        return packed(
            {
                "t": self._token_numbers(view),
                "c": _runs(classes),
                "p": [
                    [branch.shared, end - branch.start, _segments(branch)]
                    for branch, end in zip(view.branches, ends, strict=True)
                ],
            }
        )

    def index(self, about: dict[str, Any]) -> str:
        """The tables, what the list of rows shows, and `about`."""
        ids, texts = zip(*self._tokens, strict=True) if self._tokens else ((), ())
        return packed(
            {**about, "ids": ids, "texts": texts, "classes": list(self._classes), "labels": LABELS, "rows": self._rows}
        )

    def _token_numbers(self, view: TreeView) -> list[int]:
        known = self._tokens
        return [known.setdefault(pair, len(known)) for pair in zip(view.ids.tolist(), view.texts, strict=True)]

    def _class_numbers(self, view: TreeView, other: tuple[np.ndarray, np.ndarray, Example] | None) -> np.ndarray:
        """int64[n]: the class of each token."""
        columns = [view.label_ids, view.weights] + ([] if other is None else [*other[:2]])
        kinds, inverse = np.unique(np.stack(columns).astype(np.float64), axis=1, return_inverse=True)
        numbers = []
        for kind in kinds.T:
            values: list[Any] = [
                (LABELS[int(value)] if value >= 0 else None) if n % 2 == 0 else float(value)
                for n, value in enumerate(kind)
            ]
            key: Any = tuple(values)
            numbers.append(self._classes.setdefault(key, len(self._classes)))
        return np.array(numbers, dtype=np.int64)[inverse.reshape(-1)]


def packed(value: Any) -> str:
    """JSON, deflated, as base64. Lone surrogates, which UTF-8 has no bytes for, become escapes of JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace"), 9)).decode()


def unpacked(text: str) -> Any:
    """What `packed` was given, tuples as lists."""
    return json.loads(zlib.decompress(base64.b64decode(text)).decode("utf-8"))


def _refusal(refusal: Refusal | None) -> dict[str, Any] | None:
    if refusal is None:
        return None
    return {"reason": refusal.reason, "message": refusal.message, "detail": refusal.detail}


def _runs(classes: np.ndarray) -> list[int]:
    """[length, class] of each run, flat."""
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    lengths = np.diff(starts, append=len(classes))
    return np.stack([lengths, classes[starts]], axis=1).reshape(-1).tolist()


def _segments(branch: Branch) -> list[list[Any]]:
    tokens = np.bincount(branch.owners, minlength=len(branch.segments)).tolist()
    return [
        [segment.kind, segment.message, len(segment.text.encode("utf-16-le", "surrogatepass")) // 2, count]
        for segment, count in zip(branch.segments, tokens, strict=True)
    ]
