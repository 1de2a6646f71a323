"""ShareGPT: a list of objects with from and value, or of {human, assistant} pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsft.data.fields import malformed
from agentsft.data.messages import find_messages, read_messages
from agentsft.types import Message

_PAIR = ("human", "assistant")


def matches(record: Mapping[str, Any]) -> bool:
    """Whether the row has a list of messages of which the first has `from`, or is a {human, assistant} pair."""
    items = find_messages(record)
    if not items or not isinstance(items[0], Mapping):
        return False
    return items[0].get("from") is not None or _is_pair(items[0])


def read(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """The row's messages. Raises RowError, see `read_messages`."""
    items = find_messages(record)
    if not items or not _is_pair(items[0]):
        return read_messages(items)
    if not all(_is_pair(item) for item in items):
        raise malformed("Only some entries are {human, assistant} pairs; write all of them as from and value.")
    return read_messages([{"from": name, "value": pair[name]} for pair in items for name in _PAIR])


def _is_pair(item: Any) -> bool:
    return isinstance(item, Mapping) and all(item.get(name) is not None for name in _PAIR)
