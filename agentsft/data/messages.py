"""One raw message of any chat format -> `Message`s, whatever names its role and its fields have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentsft.data.content import read_content
from agentsft.data.fields import (
    MEDIA_FIELDS,
    REASONING_FIELDS,
    TRAIN_FIELDS,
    WEIGHT_FIELDS,
    field_names,
    kind,
    malformed,
    read_call,
    read_calls,
    read_reasoning,
    read_train,
    read_weight,
    refuse_media,
    text_field,
)
from agentsft.errors import RowError, nearest
from agentsft.types import Message

DETAIL_FIELDS = ("training_detail", "train_detail")
MESSAGE_FIELDS = ("messages", "conversations", "conversation")
_READ = {
    *("role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name", "human", "assistant"),
    *(*REASONING_FIELDS, *TRAIN_FIELDS, *WEIGHT_FIELDS, *MEDIA_FIELDS),
}
_BESIDES = _READ - {"role", "from", "content", "value"} | {*DETAIL_FIELDS}
"""A message with none of these has a role and a content, and nothing else that is read."""
_REJECTED = ("rejected_response", "rejected_messages", "rejected")
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_CALL = "call"
"""A message that is nothing but tool calls, as JSON text: part of the assistant's turn."""

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function": "tool",
    "observation": "tool",
    "observations": "tool",
    "tool_call": _CALL,
    "function_call": _CALL,
}


def read_messages(items: Sequence[Any], first: int = 0) -> tuple[Message, ...]:
    """The messages of a row, counted from `first`. Raises RowError with the index of the message at fault.

    Messages of role tool_call / function_call are part of the assistant's turn: those in a row become one message
    with parallel calls, and the assistant text right before them becomes that message's text. An assistant text
    after them stays a message of its own.
    """
    messages: list[Message] = []
    for index, raw in enumerate(items, start=first):
        if not isinstance(raw, Mapping):
            raise malformed(f"The message is {kind(raw)}; it must be an object with role and content.", index)
        role = _role(raw, index)
        if role != _CALL and _BESIDES.isdisjoint(raw) and isinstance(text := _content(raw), str):
            messages.append(Message(role, text))
            continue
        refuse_media(raw, index)
        if role == _CALL:
            calls = _call_message(raw, index)
            if messages and messages[-1].role == "assistant":
                calls = _join(messages.pop(), calls, index)
            messages.append(calls)
        else:
            messages += _message(raw, role, index)
    return tuple(messages)


def _role(raw: Mapping[str, Any], index: int) -> str:
    name = raw.get("role")
    if name is None:
        name = raw.get("from")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None and isinstance(name, str):
        role = ROLES.get(name.replace("-", "_"))
    if role is None:
        guess = nearest(name, tuple(ROLES)) if isinstance(name, str) else ""
        known = f"Known roles: {', '.join(ROLES)}; others are named in columns: {{roles: {{user: ...}}}}."
        raise RowError("unknown_role", f"The role is {kind(name)}.{guess} {known}", index)
    return role


def _content(raw: Mapping[str, Any]) -> Any:
    value = raw.get("content")
    return raw.get("value") if value is None else value


def _message(raw: Mapping[str, Any], role: str, index: int) -> list[Message]:
    value = _content(raw)
    if detail := next((name for name in DETAIL_FIELDS if raw.get(name)), None):
        raise malformed(
            f"{detail} weighs characters one by one, which is not read; use train, weight or a table.", index
        )
    content = read_content(value, index)
    reasoning = read_reasoning(raw, index)
    calls = (*content.calls, *read_calls(raw.get("tool_calls"), index))
    if raw.get("function_call") is not None:
        calls += (read_call(raw["function_call"], index),)
    if content.reasoning is not None:
        if reasoning is not None:
            raise malformed("The message has reasoning both in its content and beside it; keep one.", index)
        reasoning = content.reasoning or None
    if role != "assistant" and (calls or reasoning is not None):
        raise malformed(f"A {role} message has tool calls or reasoning; only the assistant's may.", index)
    if value is None and role != "tool" and not calls and reasoning is None:
        raise malformed(f"The message has no content; its fields are {field_names(raw)}.", index)
    if content.results and role not in ("user", "tool"):
        raise malformed(f"A {role} message has tool results; only a user or tool message may.", index)
    if content.results and not content.text:
        return content.results
    message = Message(
        role,
        content.text,
        reasoning,
        calls,
        text_field(raw, "tool_call_id", index),
        text_field(raw, "name", index),
        read_train(raw, index),
        read_weight(raw, index),
    )
    return [*content.results, message]


def _call_message(raw: Mapping[str, Any], index: int) -> Message:
    """A message whose content is the JSON of one call or of a list, perhaps after a <think> block of its own."""
    value, text = _content(raw), ""
    if isinstance(value, str) and value.lstrip().startswith("<think>"):
        thought, end, value = value.partition("</think>")
        text = thought + end
    calls = read_calls(value, index)
    if not calls:
        raise malformed("The message is a tool call without a call; it must be JSON with name and arguments.", index)
    train, weight = read_train(raw, index), read_weight(raw, index)
    return Message("assistant", text, read_reasoning(raw, index), calls, train=train, weight=weight)


def _join(turn: Message, calls: Message, index: int) -> Message:
    """The assistant's `turn` so far with further calls. One turn has one weight, and no text after its calls."""
    if (turn.train, turn.weight) != (calls.train, calls.weight):
        raise malformed("This call belongs to the turn before it, but its loss flag or weight differs.", index)
    if (turn.tool_calls and calls.content) or (turn.content and calls.content):
        raise malformed("The call has text of its own, but belongs to the turn before it, which has text.", index)
    if calls.reasoning is not None and (turn.reasoning is not None or turn.content):
        raise malformed("The call has reasoning of its own, but belongs to the turn before it.", index)
    return replace(
        turn,
        content=turn.content or calls.content,
        reasoning=turn.reasoning or calls.reasoning,
        tool_calls=turn.tool_calls + calls.tool_calls,
    )


def unread_fields(record: Any) -> Iterator[str]:
    """The fields of the row's messages that hold something and that nothing reads, one for each message that has it.

    Often metadata such as a time; but a misspelt or foreign name for reasoning, calls or weights is among them too.
    And the row's own fields with an answer that another was preferred to: it is not trained.
    """
    if not isinstance(record, Mapping):
        return
    yield from (name for name in _REJECTED if record.get(name))
    for name in (*MESSAGE_FIELDS, "prompt", "completion"):
        messages = record.get(name)
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, Mapping):
                yield from (key for key, value in message.items() if key not in _READ and value not in _NOTHING)


def find_messages(record: Mapping[str, Any]) -> list[Any]:
    """The list of messages under the first of `MESSAGE_FIELDS` that has one, or an empty list."""
    return next((record[name] for name in MESSAGE_FIELDS if record.get(name) and isinstance(record[name], list)), [])
