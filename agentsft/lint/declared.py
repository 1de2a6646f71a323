"""The tools that a row declares: in its `tools`, or in the words of its system prompt."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from agentsft.types import Conversation

Declared = Mapping[str, Any]
"""Name of a tool -> the JSON Schema of its arguments, None where it is not known."""

_ONE_OF = re.compile(r"\b(?:one|out) of[^\[\]\n]{0,40}\[([^\[\]]{1,20000})\]|\(one of ([^()\n]{1,20000})\)")
_LIST = re.compile(r"\b(?:tools|functions|apis)\b[^\[\n]{0,80}:\s*(?=\[\s*\{)", re.IGNORECASE)
_NAMED = re.compile(r"^> Tool Name: (.+)$", re.MULTILINE)
_ARGS = re.compile(r"^Tool Args: (\{.*\})\s*$", re.MULTILINE)
_LARGEST_LITERAL = 200_000


def declared_tools(conversation: Conversation) -> Declared | None:
    """The row's tools, or those that its system prompt or first user message lists; None where there is no list.

    Read in texts: Hermes' <tools> block, a JSON or Python list after `tools:` or `APIs:`, ReAct's `one of [a, b]`,
    and LlamaIndex's `> Tool Name: a`.
    """
    if conversation.tools:
        return {tool["function"]["name"]: tool["function"].get("parameters") for tool in conversation.tools}
    found: dict[str, Any] = {}
    for message in conversation.messages[:2]:
        if message.role in ("system", "developer", "user"):
            found |= _in_text(message.content)
    return found or None


@lru_cache(maxsize=256)
def _in_text(text: str) -> dict[str, Any]:
    """The tools that a prompt lists; prompts repeat from row to row."""
    found: dict[str, Any] = {}
    for match in _ONE_OF.finditer(text):
        names = (name.strip().strip("'\"`").strip() for name in re.split(r"[,;]", match[1] or match[2]))
        found |= {name: None for name in names if name and not re.search(r"[{}<>\n]|\.\.\.|…", name)}
    for match in _NAMED.finditer(text):
        after = text.find("\n> Tool Name:", match.end())
        arguments = _ARGS.search(text, match.end(), after if after >= 0 else len(text))
        found[match[1].strip()] = _parsed(arguments[1]) if arguments else None
    for tool in _tool_objects(text):
        inner = tool.get("function")
        function = inner if isinstance(inner, dict) else tool
        if isinstance(name := function.get("name"), str):
            schema = function.get("parameters", function.get("input_schema"))
            found[name] = schema if isinstance(schema, dict) else None
    return found


def _tool_objects(text: str) -> Iterator[dict[str, Any]]:
    opened = text.find("<tools>")
    closed = text.find("</tools>", opened)
    if 0 <= opened < closed:
        block = text[opened + len("<tools>") : closed].strip()
        for value in [_parsed(block)] if block.startswith("[") else map(_parsed, block.splitlines()):
            yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict))
    for match in _LIST.finditer(text):
        items = _list_at(text, match.end())
        yield from (item for item in items if isinstance(item, dict))


def _list_at(text: str, start: int) -> list[Any]:
    """The list that begins there, in JSON or as Python writes it on one line."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        line = text[start : start + _LARGEST_LITERAL].partition("\n")[0]
        try:
            value = ast.literal_eval(line[: line.rfind("]") + 1])
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return []
    return value if isinstance(value, list) else []


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
