"""Several sources of data in one run: how often each one's rows are seen, and the loss of each by itself.

A weight says how often a row of that source is seen in an epoch, where a row of weight 1 is seen once. Of weight 2.5
every row is seen twice and half of the rows a third time; of weight 0.25 a quarter of the rows is seen. Which ones is
drawn by the seed, other ones in the next epoch: after any number of epochs no row of a source has been seen more than
once more often than another.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from agentsft.data.paths import find_sources
from agentsft.errors import UserError, nearest, shown
from agentsft.types import LABELS, TokenTree

MOST_SOURCES = 32
"""Sources whose losses are told apart; more are trained all the same."""
GROUPS = MOST_SOURCES * len(LABELS)
"""Sums of a loss by source and label: `source * len(LABELS) + label`."""

_LARGEST = 1000.0


def check_weights(paths: Sequence[str], weights: Mapping[str, Any]) -> list[float]:
    """The weight of each path, 1 where none is given. Raises UserError for a path or number that cannot be."""
    for path, weight in weights.items():
        if path not in paths:
            named = ", ".join(paths)
            raise UserError(f"data_weights: {path} is none of the data ({named}).{nearest(path, list(paths))}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= _LARGEST:
            raise UserError(
                f"data_weights: {path}: a weight is above 0 and at most {_LARGEST:g}, not {shown(weight)}; "
                "to leave a source out, do not name it in data."
            )
    return [float(weights.get(path, 1.0)) for path in paths]


def source_numbers(where: Sequence[str], paths: Sequence[str]) -> np.ndarray:
    """int64[n]: the number in `paths` of the entry that each row, of which `file:line` or `file#row` is given, is from.

    Rows stand in the order of `paths`, as they are read, so a few of them are enough to look at. Raises UserError where
    two entries name the same file.
    """
    number_of: dict[str, int] = {}
    for number, path in enumerate(paths):
        for source in find_sources([path]):
            if number_of.setdefault(source.path, number) != number:
                raise UserError(
                    f"data: {source.path} belongs to {paths[number_of[source.path]]} and to {path}; name it once."
                )

    def entry(row: int) -> int:
        text = where[row]
        return number_of[text[: max(text.rfind(":"), text.rfind("#"))]]

    starts = [bisect_left(range(len(where)), k, key=entry) for k in range(len(paths))]
    return np.repeat(np.arange(len(paths)), np.diff([*starts, len(where)]))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Which rows an epoch has: `source` (int64[n]) is each row's source, `weights` how often theirs are seen."""

    source: np.ndarray
    weights: tuple[float, ...]
    seed: int
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for number, (rows, seen) in enumerate(self.counts()):
            if rows and not seen:
                path = self.paths[number] if self.paths else f"source {number}"
                raise UserError(
                    f"data_weights: {path}: {self.weights[number]:g} of {rows} rows is less than one row an epoch; "
                    "raise the weight or do not name it in data."
                )

    def __len__(self) -> int:
        """Conversations of an epoch, the same in each."""
        return sum(seen for _, seen in self.counts())

    def counts(self) -> list[tuple[int, int]]:
        """Of each source, its rows and how many of an epoch's conversations are theirs."""
        rows = np.bincount(self.source, minlength=len(self.weights)).tolist()
        return [(n, math.floor(w) * n + _extra(w, n)) for n, w in zip(rows, self.weights, strict=True)]

    @property
    def told_apart(self) -> bool:
        """Whether the losses of the sources are kept apart."""
        return 1 < len(self.paths) <= MOST_SOURCES

    def rows(self, epoch: int) -> np.ndarray:
        """int64[len(self)]: the rows of epoch number `epoch` (from 0), before they are shuffled.

        A pure function of the seed and the epoch. With all weights 1 it is every row in order.
        """
        return _rows(self, epoch)

    def notes(self) -> Iterator[str]:
        """A line for each source that says what its weight comes to."""
        for path, weight, (rows, seen) in zip(self.paths, self.weights, self.counts(), strict=True):
            yield f"{path}: {rows:,} conversations, weight {weight:g}: {seen:,} of the {len(self):,} of an epoch."


def mixture_of(paths: Sequence[str], weights: Mapping[str, Any], seed: int, where: Sequence[str]) -> Mixture | None:
    """The mixture of rows that come from `where` (`file:line` each); None for a single source that has no weight.

    Raises UserError for weights that cannot be. Without any, a file that is named twice is no error: its rows are
    trained twice, and losses are not told apart.
    """
    each = check_weights(paths, weights)
    if len(paths) < 2 and not weights:
        return None
    try:
        numbers = source_numbers(where, paths)
    except UserError:
        if weights:
            raise
        return None
    return Mixture(numbers, tuple(each), seed, tuple(paths))


@lru_cache(maxsize=2)
def _rows(mixture: Mixture, epoch: int) -> np.ndarray:
    if all(weight == 1 for weight in mixture.weights):
        return np.arange(len(mixture.source))
    parts = []
    for number, weight in enumerate(mixture.weights):
        members = np.flatnonzero(mixture.source == number)
        parts += [members] * math.floor(weight)
        if extra := _extra(weight, len(members)):
            # Each epoch takes up where the one before stopped in one fixed order of the rows.
            order = np.random.default_rng((mixture.seed, number, 1)).permutation(len(members))
            parts.append(members[order[(epoch * extra + np.arange(extra)) % len(members)]])
    return np.concatenate(parts)


def _extra(weight: float, rows: int) -> int:
    """Rows that are seen once more than the others."""
    return round((weight - math.floor(weight)) * rows)


class Marked(Sequence[TokenTree]):
    """Trees whose labels also say their source: `source * len(LABELS) + label`, int16. A slice is a list."""

    def __init__(self, trees: Sequence[TokenTree], source: np.ndarray) -> None:
        self.trees, self.source = trees, source

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        tree = self.trees[place]
        return replace(tree, label=tree.label.astype(np.int16) + np.int16(self.source[place] * len(LABELS)))

    def __iter__(self) -> Iterator[TokenTree]:
        return (self[place] for place in range(len(self)))


def by_label(sums: Iterable[float]) -> np.ndarray:
    """float64[len(LABELS)] from sums (or counts) by group."""
    return _grouped(sums).sum(axis=0)


def by_source(sums: Iterable[float]) -> np.ndarray:
    """float64[MOST_SOURCES] from sums (or counts) by group."""
    return _grouped(sums).sum(axis=1)


def loss_by_source(nll: Iterable[float], counts: Iterable[float], paths: Sequence[str]) -> dict[str, float | None]:
    """Mean unweighted loss of each source that occurs, from the sums and counts by group; None where not finite."""
    sums, numbers = by_source(nll), by_source(counts)
    means = {path: float(sums[k]) / int(numbers[k]) for k, path in enumerate(paths[:MOST_SOURCES]) if numbers[k]}
    return {path: mean if math.isfinite(mean) else None for path, mean in means.items()}


def _grouped(sums: Iterable[float]) -> np.ndarray:
    flat = np.fromiter(sums, np.float64)
    return np.pad(flat, (0, GROUPS - len(flat))).reshape(MOST_SOURCES, len(LABELS))
