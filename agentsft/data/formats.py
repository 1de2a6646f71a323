"""A raw row of any known format -> `Conversation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentsft.data import alpaca, openai, sharegpt
from agentsft.data.fields import (
    SYSTEM_FIELDS,
    field_names,
    json_field,
    malformed,
    read_id,
    read_template_kwargs,
    read_tools,
    refuse_media,
    text_field,
)
from agentsft.data.messages import MESSAGE_FIELDS
from agentsft.data.react import split_trajectories
from agentsft.errors import RowError, UserError, nearest
from agentsft.types import Conversation, Message

_FORMATS = {"openai": openai, "sharegpt": sharegpt, "alpaca": alpaca}
MOST_MESSAGES = 5000
"""Each turn is rendered behind all that comes before it, so time grows with the square of the messages."""
DATA_FORMATS = ("auto", *_FORMATS, "react")


def to_conversation(record: Mapping[str, Any], data_format: str = "auto") -> Conversation:
    """The conversation in a raw row.

    `auto` recognises openai, sharegpt and alpaca by their fields. `react` does the same, and then splits responses
    that hold a whole ReAct trajectory at their observations; `auto` never splits, since a line `Observation:` may be
    the answer's own text, and since the strategy `react` gives observations inside a response the weight 0.

    Raises RowError with reason unknown_format, unknown_role, empty_conversation, no_assistant, malformed or
    unsupported_content; UserError where `data_format` is none of `DATA_FORMATS`.
    """
    if data_format not in DATA_FORMATS:
        known = ", ".join(DATA_FORMATS)
        raise UserError(f"data_format is one of {known}; not {data_format!r}.{nearest(data_format, DATA_FORMATS)}")
    if not isinstance(record, Mapping):
        raise RowError("unknown_format", "The row is no object; each row is an object with messages, or with fields.")
    record = _parsed(record)
    found = data_format if data_format in _FORMATS and _FORMATS[data_format].matches(record) else detect(record)
    if data_format in _FORMATS and data_format != found:
        raise RowError("unknown_format", f"The row is of format {found}, not {data_format} as --data-format says.")
    refuse_media(record)
    if record.get("label") is False or record.get("kto_tag") is False:
        raise RowError(
            "rejected_answer", "The row is marked as an answer not to give (label or kto_tag false); remove it."
        )
    messages = _with_system(record, _FORMATS[found].read(record))
    if len(messages) > MOST_MESSAGES:
        detail = f"The row has {len(messages):,} messages; at most {MOST_MESSAGES:,} are rendered. Divide the row."
        raise malformed(detail, MOST_MESSAGES)
    if data_format == "react":
        messages = split_trajectories(messages)
    if not any(message.role == "assistant" for message in messages):
        raise RowError("no_assistant", "The row has no assistant message; it has nothing to train.")
    return Conversation(messages, read_tools(record), read_template_kwargs(record), read_id(record))


def detect(record: Mapping[str, Any]) -> str:
    """The name of the row's format. Raises RowError unknown_format or empty_conversation."""
    for name, module in _FORMATS.items():
        if module.matches(record):
            return name
    for name in MESSAGE_FIELDS:
        items = record.get(name)
        if items == []:
            raise RowError("empty_conversation", f"{name} is empty; remove the row.")
        if isinstance(items, list):
            fields = field_names(items[0]) if isinstance(items[0], Mapping) else "none"
            detail = f"The first of {name} has neither role and content nor from and value; its fields are {fields}."
            raise RowError("unknown_format", f"{detail} Say which they are: columns: {{role: ..., content: ...}}.", 0)
    detail = "The row has neither messages nor conversations nor instruction and output"
    said = "Say which they are: columns: {messages: ...}, or {instruction: ..., output: ...}."
    raise RowError("unknown_format", f"{detail}; its fields are {field_names(record)}. {said}")


def _parsed(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its messages as a list, where a column holds them as the JSON text of one."""
    texts = [name for name in MESSAGE_FIELDS if isinstance(record.get(name), str) and record[name].lstrip()[:1] == "["]
    return {**record, **{name: json_field(record[name], name) for name in texts}} if texts else record


def _with_system(record: Mapping[str, Any], messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, with the system text that stands beside them in the row as the first one."""
    system = next(filter(None, (text_field(record, name) for name in SYSTEM_FIELDS)), None)
    if not system:
        return messages
    first = messages[0] if messages else None
    if first is None or first.role not in ("system", "developer"):
        return (Message("system", system), *messages)
    if first.content != system:
        raise malformed("The row has two different system texts, in `system` and as a message; keep one.", 0)
    return messages


def inline_reasoning(conversation: Conversation) -> Conversation:
    """The conversation with each message's reasoning at the start of its content, as a <think> block.

    Raises RowError where the content has such a block already.
    """
    if all(message.reasoning is None for message in conversation.messages):
        return conversation
    messages = tuple(_inline(message, index) for index, message in enumerate(conversation.messages))
    return replace(conversation, messages=messages)


def _inline(message: Message, index: int) -> Message:
    if message.reasoning is None:
        return message
    if "</think>" in message.content:
        raise malformed("The message has reasoning and a <think> block in its content too; keep one.", index)
    content = f"<think>\n{message.reasoning}\n</think>\n\n{message.content}"
    return replace(message, content=content, reasoning=None)
