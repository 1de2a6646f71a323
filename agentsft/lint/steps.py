"""The calls and results of a conversation, whether they are structured or written into text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agentsft.data.json_text import parse_json
from agentsft.types import Message
from agentsft.weigh.labels import label_response

_MAY_HOLD_STEPS = re.compile(r"Action|Observation|<tool_|✿|<function=|<\|")
_KEYWORD = re.compile(r"\W*(?:Action Input|Action|Observation|✿[A-Z]+✿)(?: \d+)?[ \t]*\**[ \t]*[:：]?\**")
_WITH_BRACKETS = re.compile(r"([\w.-]+)\[(.*)\]", re.DOTALL)
_OBSERVED = re.compile(r"\s*\**(?:Observation(?: \d+)?\**[ \t]*[:：]|<tool_response>|✿RESULT✿)\**")


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `name` is None where the text does not say it in a form that is known here; `arguments` is an
    object, a text, or None where there are none. `structured`: it is a call of the message, not of its text."""

    name: str | None
    arguments: dict[str, Any] | str | None
    structured: bool
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """An observation inside a response."""

    text: str


def steps(message: Message) -> list[Call | Result]:
    """The calls and results of an assistant message, in order: those in its text, then its structured calls."""
    structured = [Call(call.name, call.arguments, True, call.id) for call in message.tool_calls]
    return [*_in_text(message.content), *structured]


def observation_of(message: Message) -> str | None:
    """What a tool message says, or a user message that begins as an observation does; None for other messages."""
    if message.role == "tool":
        return message.content
    if message.role == "user" and (match := _OBSERVED.match(message.content)):
        return message.content[match.end() :].removesuffix("</tool_response>")
    return None


def after_keyword(piece: str) -> str:
    """A labelled piece of a response without the keyword that opens it, and without outer space."""
    match = _KEYWORD.match(piece)
    return piece[match.end() if match else 0 :].strip()


def _in_text(text: str) -> Iterator[Call | Result]:
    if not _MAY_HOLD_STEPS.search(text):
        return
    name = None
    for start, end, label in label_response(text):
        if name is not None:
            if label == "action_input":
                yield Call(name, _read(after_keyword(text[start:end])), False)
                name = None
                continue
            if label == "text" and not text[start:end].strip():
                continue
            yield _without_input(name)
            name = None
        if label == "action":
            name = after_keyword(text[start:end]).strip("* \t")
        elif label == "tool_call":
            yield _tagged(text[start:end])
        elif label == "observation":
            yield Result(after_keyword(text[start:end]))
    if name is not None:
        yield _without_input(name)


def _without_input(name: str) -> Call:
    """`search[a query]`, as in ReAct's first form, or a name alone."""
    match = _WITH_BRACKETS.fullmatch(name)
    return Call(match[1], match[2], False) if match else Call(name.partition("\n")[0].strip(), None, False)


def _tagged(block: str) -> Call:
    """A block of Hermes' form; blocks of other forms are calls whose name is not known."""
    if not block.startswith("<tool_call>"):
        return Call(None, None, False)
    inner = block.removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
    if not inner.startswith("{"):
        return Call(None, None, False)
    value = _read(inner)
    if isinstance(value, str):
        return Call(None, value, False)
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _read(arguments)
    return Call(name if isinstance(name, str) else None, arguments if isinstance(arguments, dict) else {}, False)


def _read(text: str) -> dict[str, Any] | str:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
