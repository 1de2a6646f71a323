"""One thing that is odd about a row, and the kinds of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentsft.errors import UserError, nearest

KINDS = {
    "undeclared_tool": "a call of a tool that the row does not declare",
    "invalid_arguments": "arguments that the tool's JSON Schema, or JSON itself, does not allow",
    "broken_schema": "a tool whose parameters are no JSON Schema: its calls are not checked",
    "call_without_result": "a call that is followed by something else than its result",
    "result_without_call": "a result or an observation that no call asked for",
    "mismatched_result": "a result whose id or name is not that of a call before it",
    "think_tags": "think tags that are not closed, not opened, or doubled",
    "misplaced_keyword": "a keyword inside data: the weight changes where no step begins",
    "trained_observation": "an observation inside a response: the model learns to write it itself",
    "echoed_observation": "a trained response that only repeats its observation",
    "empty_response": "a trained response without text or call",
    "duplicate_text": "a row that gives the same tokens as an earlier one; both are trained",
    "duplicate_id": "a row that has the id of an earlier one; both are trained",
    "contradictory_duplicate": "an earlier row's conversation with another last response or weights",
}
"""Kind -> what it means, in one line. The names are stable; new kinds may be added."""

_EXCERPT = 70


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is a key of `KINDS`, `message` the index of the message (None: the whole row), `detail` what is odd
    about it, and `excerpt` the text at fault on one line, shortened."""

    kind: str
    message: int | None
    detail: str
    excerpt: str = ""


def excerpt(text: str, around: int = 0, size: int = _EXCERPT) -> str:
    """`size` characters of `text` around the character `around`, on one line, with dots where something is left out."""
    start = max(0, min(around - size // 3, len(text) - size))
    cut = " ".join(text[start : start + size].split())
    return f"{'…' if start else ''}{cut}{'…' if start + size < len(text) else ''}"


def check_kinds(names: Sequence[str]) -> None:
    """Raises UserError for a name that is no kind."""
    for name in names:
        if name not in KINDS:
            raise UserError(f"unknown kind of warning {name!r}; there are {', '.join(KINDS)}.{nearest(name, [*KINDS])}")
