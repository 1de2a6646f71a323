"""Rows that are there twice: found by hashes, reported, and kept."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentsft.encode.examples import Examples
from agentsft.types import Conversation, Example


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The row at `source` repeats the row at `first`. `kind` is duplicate_text, duplicate_id or
    contradictory_duplicate, `detail` says what they share."""

    kind: str
    row: int
    source: str
    first: str
    detail: str


def _numbers() -> Any:
    return array("q")


@dataclass
class Duplicates:
    """64-bit hashes of all rows, 48 bytes a row; 0 stands for a row that has nothing to compare.

    Two different ones among a million rows agree by chance once in 37 million runs. A row costs some microseconds:
    texts are compared by the ids of their token trees, which stand for the rendered text.
    """

    rows: Any = field(default_factory=_numbers)
    sources: Any = field(default_factory=list)
    text: Any = field(default_factory=_numbers)
    targets: Any = field(default_factory=_numbers)
    id: Any = field(default_factory=_numbers)
    context: Any = field(default_factory=_numbers)
    response: Any = field(default_factory=_numbers)

    def add(self, example: Example, conversation: Conversation | None = None) -> None:
        """Remember a row. With its conversation, other last responses to the same messages are found too.

        Refused rows have no text, and no id.
        """
        tree = example.tree
        self.rows.append(example.index)
        self.sources.append(example.source)
        self.text.append(hash(tree.input_ids.tobytes()) if tree is not None else 0)
        self.targets.append(hash(tree.source.tobytes() + tree.weight.tobytes()) if tree is not None else 0)
        self.id.append(hash(_identity(example)) if example.id else 0)
        context, response = _context(conversation) if conversation and tree is not None else (0, 0)
        self.context.append(context)
        self.response.append(response)

    def add_all(self, examples: Examples) -> None:
        """Remember prepared rows, by digests that are kept with them; rows that `add` remembers have others."""
        self.sources = examples.texts("source")
        for mine, column in (("rows", "index"), ("text", "text"), ("targets", "targets"), ("id", "identity")):
            setattr(self, mine, array("q", examples.column(column).tobytes()))
        self.context = self.response = array("q", bytes(8 * len(examples)))

    def found(self) -> Iterator[Duplicate]:
        """Every repeated row, once for each kind, against the first row that it repeats."""
        for kind, keys, detail in (
            ("duplicate_text", self.text, "the same tokens as"),
            ("duplicate_id", self.id, "the same id as"),
        ):
            for row, first in _repeated(keys):
                yield self._duplicate(kind, row, first, detail)
        for row, first in _repeated(self.text):
            if self.targets[row] != self.targets[first]:
                detail = "the same tokens with other weights as"
                yield self._duplicate("contradictory_duplicate", row, first, detail)
        for row, first in _repeated(self.context):
            if self.response[row] != self.response[first]:
                detail = "the same conversation with another last response as"
                yield self._duplicate("contradictory_duplicate", row, first, detail)

    def shared_with(self, other: Duplicates) -> int:
        """How many rows have the tokens of a row of `other`."""
        mine, others = np.array(self.text, np.int64), np.array(other.text, np.int64)
        return int((np.isin(mine, others) & (mine != 0)).sum())

    def _duplicate(self, kind: str, row: int, first: int, detail: str) -> Duplicate:
        return Duplicate(kind, self.rows[row], self.sources[row], self.sources[first], detail)


def _identity(example: Example) -> tuple[str, str]:
    """A name counts everywhere, a number in its own file alone: many files number their rows from 0."""
    name = str(example.id)
    return ("", name) if not name.isdigit() else (re.sub(r"[:#]\d+$", "", example.source), name)


def _context(conversation: Conversation) -> tuple[int, int]:
    """Hashes of all that stands before the last assistant message, and of that message."""
    last = max(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
    said = [
        (message.role, message.content, message.reasoning, repr(message.tool_calls) if message.tool_calls else "")
        for message in conversation.messages[: last + 1]
    ]
    kwargs = conversation.template_kwargs
    return hash((tuple(said[:-1]), repr(conversation.tools), repr(kwargs) if kwargs else "")), hash(said[-1])


def _repeated(keys: Any) -> list[tuple[int, int]]:
    """(place, first place with the same key) of every later place."""
    numbers = np.array(keys, dtype=np.int64)
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    earliest = first[inverse]
    repeated = np.flatnonzero((earliest != np.arange(len(numbers))) & (numbers != 0))
    return list(zip(repeated.tolist(), earliest[repeated].tolist(), strict=True))
