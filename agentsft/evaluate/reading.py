"""What a response does: the calls that it makes, and whether it thinks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentsft.data.json_text import parse_json
from agentsft.evaluate.formats import Call, Schemas, read_block
from agentsft.lint.steps import after_keyword
from agentsft.weigh.labels import label_response

_BRACKETS = re.compile(r"([\w.-]+)\[(.*)\]", re.DOTALL)
_TAG = re.compile(r"<[^<>\n]*>|\[/?THINK\]")
THINKING = ("think", "thought")
"""Labels of thinking: a block of tags, or ReAct's Thought."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`calls` in order; `thinking`, the labels of `THINKING` under which there is any text."""

    calls: tuple[Call, ...]
    thinking: frozenset[str]


def read_response(response: str, prompt: str = "", schemas: Schemas | None = None) -> Reading:
    """Reads a response (without its stop token). `prompt` is what stands before it: it may open a think block."""
    text = opened_by(prompt) + response
    pieces = [(text[start:end], label) for start, end, label in label_response(text)]
    thinking = frozenset(label for piece, label in pieces if label in THINKING and _says_something(piece, label))
    return Reading(tuple(_calls(pieces, schemas or {})), thinking)


def opened_by(prompt: str) -> str:
    """The opening tag of the think block in which `prompt` ends, or an empty string."""
    line = prompt[-200:].rstrip().rpartition("\n")[2]
    if not line:
        return ""
    start, _, label = label_response(line + "x")[-1]
    return line[start:] if label == "think" else ""


def _says_something(piece: str, label: str) -> bool:
    return bool((_after_colon(piece) if label == "thought" else _TAG.sub("", piece)).strip())


def _after_colon(piece: str) -> str:
    return re.split(r"[:：]", piece, maxsplit=1)[-1].lstrip("*")


def _calls(pieces: Sequence[tuple[str, str]], schemas: Schemas) -> Iterator[Call]:
    name: str | None = None
    for piece, label in pieces:
        if name is not None and label == "text" and not piece.strip():
            continue
        if name is not None:
            yield _react_call(name, after_keyword(piece) if label == "action_input" else None)
            name = None
        if label == "action":
            name = after_keyword(piece).strip("* \t\n")
        elif label == "tool_call":
            yield from read_block(piece, schemas)
    if name is not None:
        yield _react_call(name, None)


def _react_call(name: str, given: str | None) -> Call:
    """An action with its input: JSON, or a text; `search[a query]` holds both."""
    if given is None and (match := _BRACKETS.fullmatch(name)):
        return Call(match[1], match[2].strip(), react=True)
    if not name or "\n" in name:
        return Call(name, None, "no name of a tool on the line of the action", react=True)
    if given is None:
        return Call(name, None, "no input", react=True)
    try:
        return Call(name, parse_json(given), react=True)
    except (ValueError, RecursionError) as error:
        fault = f"no JSON ({' '.join(str(error).split())[:120]})" if given.startswith(("{", "[")) else ""
        return Call(name, given, fault, react=True)


def equal(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0 but not true, objects have no order, lists have one."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return (numbers or type(a) is type(b)) and bool(a == b)


def same_calls(a: Sequence[Call], b: Sequence[Call]) -> bool:
    """Whether the same tools are called with equal arguments, in any order and equally often."""
    left = list(b)
    for call in a:
        twin = next((i for i, o in enumerate(left) if o.name == call.name and equal(o.arguments, call.arguments)), None)
        if twin is None:
            return False
        del left[twin]
    return not left
