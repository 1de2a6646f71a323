"""The content of a message: text, or a list of typed parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentsft.data.fields import kind, malformed, read_call, text_field
from agentsft.errors import RowError
from agentsft.types import Message, ToolCall

_TEXT_KEYS = ("text", "value", "content", "thinking", "reasoning")
_KINDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "reasoning": "reasoning",
    "thinking": "reasoning",
    "tool_call": "call",
    "tool_use": "call",
    "tool_result": "result",
}


@dataclass(slots=True)
class Content:
    """What a message's content holds, once its parts are sorted. `results` are Anthropic's tool results."""

    text: str = ""
    reasoning: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)


def read_content(value: Any, message: int) -> Content:
    """The content of message number `message`. Text parts join without a separator, as templates join them.

    Raises RowError for parts that are no text, and for an order of parts that a message cannot express: reasoning
    comes first, then text, then calls.
    """
    if isinstance(value, str):
        return Content(value)
    content = Content()
    if value is None:
        return content
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise malformed(f"The content is {kind(value)}; it must be text or a list of parts.", message)
    for part in value:
        _add(part, content, message)
    return content


def _add(part: Any, content: Content, message: int) -> None:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise malformed(f"A part of the content is {kind(part)}; it must be text or an object with a type.", message)
    if any(part.get(name) is not None for name in ("train", "weight")):
        raise malformed(
            "A part of the content has a train or weight of its own; divide the message, or weigh it.", message
        )
    part_type = part.get("type") or ("text" if isinstance(part.get("text"), str) else None)
    if part_type is None:
        raise malformed("A part of the content has no type; write the content as text or as typed parts.", message)
    match _KINDS.get(part_type) if isinstance(part_type, str) else None:
        case "text":
            if content.calls:
                raise malformed("Text follows a tool call in one message; move it before the call.", message)
            content.text += _text(part, message)
        case "reasoning":
            if content.text or content.calls:
                raise malformed("Reasoning follows text or a call in one message; move it to the start.", message)
            content.reasoning = (content.reasoning or "") + _text(part, message)
        case "call":
            content.calls.append(read_call(part.get("value") or part.get("tool_call") or part, message))
        case "result":
            if content.text:
                raise malformed("A tool result follows text in one message; move it before the text.", message)
            result = read_content(part.get("content"), message)
            if result.calls or result.results or result.reasoning is not None:
                raise malformed("A tool result holds calls, results or reasoning; only text may stand in it.", message)
            content.results.append(Message("tool", result.text, tool_call_id=text_field(part, "tool_use_id", message)))
        case _:
            detail = f"A part of the content is of type {kind(part_type)}; only text is trained. Remove the row."
            raise RowError("unsupported_content", detail, message)


def _text(part: dict[str, Any], message: int) -> str:
    for key in _TEXT_KEYS:
        if isinstance(part.get(key), str):
            return part[key]
    raise malformed(f"A part of type {part.get('type')} holds no text.", message)
