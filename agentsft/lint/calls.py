"""Calls against what the row declares: names and arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from agentsft.data.json_text import parse_json
from agentsft.errors import nearest
from agentsft.lint.declared import Declared
from agentsft.lint.finding import Finding, excerpt
from agentsft.lint.schema import SchemaFaultError, argument_fault
from agentsft.lint.steps import Call

_SHOWN_NAMES = 6


def call_findings(calls: Sequence[tuple[int, Call]], declared: Declared | None) -> Iterator[Finding]:
    """Undeclared tools and faulty arguments among (index of the message, call); a broken schema is said once a row.

    Without a list of tools the names in a text cannot be judged; structured calls are undeclared then.
    """
    broken: set[str] = set()
    for message, call in calls:
        if call.name is not None and (undeclared := _undeclared(call, declared)):
            yield Finding("undeclared_tool", message, undeclared, _shown(call))
            continue
        schema = (declared or {}).get(call.name) if call.name is not None else None
        fault = _form_fault(call, schema)
        if fault is None and isinstance(call.arguments, dict) and schema is not None:
            try:
                fault = argument_fault(schema, call.arguments)
            except SchemaFaultError as error:
                if call.name not in broken:
                    broken.add(str(call.name))
                    yield Finding("broken_schema", None, f"{call.name}: {error}", excerpt(_text(schema)))
        if fault:
            yield Finding("invalid_arguments", message, f"{call.name or 'a call'}: {fault}", _shown(call))


def _undeclared(call: Call, declared: Declared | None) -> str | None:
    if declared is None:
        return f"{call.name!r} is called, but the row declares no tools" if call.structured else None
    if call.name in declared:
        return None
    names = list(declared)
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    name = excerpt(str(call.name), size=40)
    return f"{name!r} is none of the declared tools ({shown}).{nearest(name, names[:200])}"


def _form_fault(call: Call, schema: Any) -> str | None:
    """What is wrong with arguments that are text: JSON that cannot be read, or text where an object is due.

    A tool of one parameter may be given its text alone, as in ReAct.
    """
    if not isinstance(call.arguments, str):
        return None
    text = call.arguments.strip()
    if call.structured or text.startswith("{") or (text and call.name is None):
        try:
            value = parse_json(text)
        except (ValueError, RecursionError) as error:
            return f"no JSON ({_json_fault(error)})" if text else "no JSON: they are empty"
        return f"no JSON object but a {type(value).__name__}"
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if isinstance(properties, dict) and len(properties) > 1 and text:
        return f"a text, where an object with {', '.join(list(map(str, properties))[:_SHOWN_NAMES])} is due"
    return None


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
    return " ".join(str(error).split())


def _shown(call: Call) -> str:
    arguments = "" if call.arguments is None else _text(call.arguments)
    return excerpt(f"{call.name or ''}({arguments})")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
