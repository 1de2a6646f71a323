"""OpenAI messages: a list of objects with role and content; ms-swift's roles tool_call and tool_response too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsft.data.messages import find_messages, read_messages
from agentsft.types import Message


def matches(record: Mapping[str, Any]) -> bool:
    """Whether the row has a list of messages of which the first has a role."""
    items = find_messages(record)
    return bool(items) and isinstance(items[0], Mapping) and items[0].get("role") is not None


def read(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """The row's messages. Raises RowError, see `read_messages`."""
    return read_messages(find_messages(record))
