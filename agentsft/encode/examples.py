"""Prepared rows as lazy sequences: a million of them cost no more memory than their columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from agentsft.encode.shard import Shard, to_arrays
from agentsft.types import Example, TokenTree

MOST_ROWS = 8192
MOST_TOKENS = 1 << 23
"""A shard ends with the row that reaches one of them: about 60 MB, and what a killed preparation does again."""


class Examples(Sequence[Example]):
    """Compact examples in shards, made into objects when they are asked for.

    `rows` (int64[k], ascending or not) chooses and orders them; None takes all. A slice is again such a sequence.
    """

    def __init__(self, shards: Sequence[Shard], rows: np.ndarray | None = None) -> None:
        self.shards = list(shards)
        self._starts = np.cumsum([0, *map(len, self.shards)])
        self._rows = rows
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Examples: ...
    def __getitem__(self, place: int | slice) -> Example | Examples:
        if isinstance(place, slice):
            return self.select(np.arange(len(self))[place])
        shard, row = self._place(place)
        return shard.example(row)

    def __iter__(self) -> Iterator[Example]:
        return (self[place] for place in range(len(self)))

    def __add__(self, other: Examples) -> Examples:
        mine, others = (np.arange(len(part)) if part._rows is None else part._rows for part in (self, other))
        return Examples([*self.shards, *other.shards], np.concatenate([mine, others + self._starts[-1]]))

    def select(self, chosen: np.ndarray) -> Examples:
        """Those examples that `chosen` names, by places (int[k]) or by a mask (bool[len(self)])."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Examples(self.shards, places if self._rows is None else self._rows[places])

    def column(self, name: str) -> np.ndarray:
        """One of `shard.COLUMNS`, int64[len(self)]."""
        if name not in self._columns:
            whole = np.concatenate([np.empty(0, np.int64), *(shard.column(name) for shard in self.shards)])
            self._columns[name] = whole if self._rows is None else whole[self._rows]
        return self._columns[name]

    def texts(self, name: str) -> Texts:
        """`source`, `id` or `task` of each example, read when asked for."""
        return Texts(self, name)

    @property
    def trees(self) -> Trees:
        """The trees of those examples that have one."""
        return Trees(self.select(self.column("has_tree") == 1))

    def faulty(self) -> Iterator[Example]:
        """The examples that were refused or lost turns, in order."""
        marked = np.concatenate([np.empty(0, bool), *map(_marked, self.shards)])
        for place in np.flatnonzero(marked if self._rows is None else marked[self._rows]):
            yield self[int(place)]

    def digest(self) -> str:
        """64 hexadecimal digits that depend on the tokens and targets of all trees, in their order."""
        columns = [self.column(name)[self.column("has_tree") == 1] for name in ("tokens", "text", "targets")]
        return hashlib.sha256(np.stack(columns).tobytes()).hexdigest()

    def _place(self, place: int) -> tuple[Shard, int]:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        row = place if self._rows is None else int(self._rows[place])
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.shards[number], row - int(self._starts[number])


class RowOf(Mapping[str, tuple[int, int]]):
    """The row number and the trained tokens of each source, looked up when first asked for."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._place_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[str]:
        return iter(self._examples.texts("source"))

    def __getitem__(self, source: str) -> tuple[int, int]:
        if not self._place_of:
            self._place_of = {name: place for place, name in enumerate(self)}
        place = self._place_of[source]
        return int(self._examples.column("index")[place]), int(self._examples.column("trained")[place])


class Texts(Sequence[Any]):
    """One text of each example."""

    def __init__(self, examples: Examples, name: str) -> None:
        self._examples, self._name = examples, name

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        shard, row = self._examples._place(int(place))
        return shard.text(self._name, row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Texts) and list(self) == list(other)


class Trees(Sequence[TokenTree]):
    """The trees of examples that all have one. A slice is a list."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, place: int) -> TokenTree: ...
    @overload
    def __getitem__(self, place: slice) -> list[TokenTree]: ...
    def __getitem__(self, place: int | slice) -> TokenTree | list[TokenTree]:
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        shard, row = self.examples._place(int(place))
        tree = shard.tree(row)
        assert tree is not None
        return tree

    def __iter__(self) -> Iterator[TokenTree]:
        return (self[place] for place in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each tree, int64[n], without reading one."""
        return self.examples.column("tokens")


def in_shards(examples: Iterable[Example]) -> Iterator[tuple[list[Example], bool]]:
    """`examples` in lists, each of as many as one shard takes, and whether a list is the last."""
    part: list[Example] = []
    tokens = 0
    for example in examples:
        if len(part) >= MOST_ROWS or tokens >= MOST_TOKENS:
            yield part, False
            part, tokens = [], 0
        part.append(example)
        tokens += 0 if example.tree is None else len(example.tree)
    if part:
        yield part, True


def collected(examples: Iterable[Example]) -> Examples:
    """`examples` as a sequence of arrays, one shard of objects at a time, without their turns and conversations."""
    if isinstance(examples, Examples):
        return examples
    return Examples([Shard(to_arrays(part)) for part, _ in in_shards(examples)])


def _marked(shard: Shard) -> np.ndarray:
    mask = np.zeros(len(shard), bool)
    mask[list(shard.faults)] = True
    return mask
