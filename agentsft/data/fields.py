"""The fields that every format shares: tools, calls, arguments, weights, template variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentsft.data.json_text import parse_json
from agentsft.errors import RowError
from agentsft.types import ToolCall

TRAIN_FIELDS = ("loss", "train", "training", "trainable")
WEIGHT_FIELDS = ("weight", "loss_weight", "loss_scale")
DEEPEST = 100
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-30, 1e30  # weights are kept as float32, and their sums must be finite
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
KWARGS_FIELDS = ("chat_template_kwargs", "template_kwargs")
_RENDERED = ("messages", "tools", "documents", "add_generation_prompt")
ID_FIELDS = ("id", "uid", "conversation_id")
TOOLS_FIELDS = ("tools", "functions")
SYSTEM_FIELDS = ("system", "system_prompt")
MEDIA_FIELDS = ("images", "image", "videos", "video", "audios", "audio")


def malformed(detail: str, message: int | None = None) -> RowError:
    return RowError("malformed", detail, message)


def kind(value: Any) -> str:
    """What a value is, in JSON's words, for errors."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"{json.dumps(value, ensure_ascii=False, default=str)[:60]}"


def field_names(record: Mapping[str, Any]) -> str:
    """The names of a record's fields, for errors: on one line, and not too many."""
    return " ".join(", ".join(map(str, record)).split())[:200] or "none"


def check_depth(value: Any, name: str, message: int | None = None) -> None:
    """Raise RowError where objects and lists stand more than `DEEPEST` inside each other: all that reads or writes
    them is recursive."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        if not level:
            return
        inner = (item for one in level for item in (one.values() if isinstance(one, dict) else one))
        level = [item for item in inner if isinstance(item, (dict, list))]
    raise malformed(f"{name} is nested more than {DEEPEST} deep; flatten it or remove the row.", message)


def text_field(record: Mapping[str, Any], name: str, message: int | None = None) -> str | None:
    """A field that holds text or nothing; a whole number is taken as its digits."""
    value = record.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise malformed(f"{name} is {kind(value)}; it must be text.", message)


def json_field(value: Any, name: str, message: int | None = None) -> Any:
    """A field's value, parsed where it is written as JSON text; an empty text is None."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return parse_json(value)
    except ValueError as error:
        raise malformed(f"{name} is text, but not valid JSON: {error}.", message) from None


def agreed(record: Mapping[str, Any], names: tuple[str, ...], message: int | None = None) -> Any:
    """The value under whichever of `names` the record uses, or None. Raises RowError where two of them differ."""
    found = None
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if found is not None and record[found] != value:
            raise malformed(f"{found} and {name} mean the same but differ; keep one.", message)
        found = found or name
    return None if found is None else record[found]


def read_train(raw: Mapping[str, Any], message: int) -> bool | None:
    """The on/off switch of a message, a bool or 0/1 under any peer's name, or None where the row does not say."""
    found: bool | None = None
    for name in TRAIN_FIELDS:
        value = raw.get(name)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise malformed(f"{name} is {kind(value)}; it must be true or false.", message)
        if found is not None and found != bool(value):
            raise malformed(f"{name} contradicts another of {', '.join(TRAIN_FIELDS)}; keep one.", message)
        found = bool(value)
    return found


def read_weight(raw: Mapping[str, Any], message: int) -> float | None:
    """The weight of a message, a number >= 0 under any peer's name, or None where the row does not say."""
    found: float | None = None
    for name in WEIGHT_FIELDS:
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, bool):
            raise malformed(f"{name} is {kind(value)}; a switch goes into `train`, a number into `{name}`.", message)
        if not isinstance(value, (int, float)) or not (value == 0 or SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT):
            raise malformed(f"{name} is {kind(value)}; it must be 0 or a positive number of usual size.", message)
        if found is not None and found != value:
            raise malformed(f"{name} contradicts another of {', '.join(WEIGHT_FIELDS)}; keep one.", message)
        found = float(value)
    return found


def read_reasoning(raw: Mapping[str, Any], message: int) -> str | None:
    """The reasoning of a message; an empty one is None."""
    found: str | None = None
    for name in REASONING_FIELDS:
        value = raw.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise malformed(f"{name} is {kind(value)}; it must be text.", message)
        if found is not None and found != value:
            raise malformed(f"{name} contradicts another of {', '.join(REASONING_FIELDS)}; keep one.", message)
        found = value
    return found


def read_arguments(value: Any, message: int) -> dict[str, Any] | str:
    """A call's arguments: the object, also where it is written as JSON text; any other text as it stands.

    Text whose JSON would not survive being parsed and written (duplicate keys, NaN) stays text too.
    """
    if value is None:
        return {}
    if isinstance(value, dict):
        check_depth(value, "A call's arguments", message)
        return value
    if not isinstance(value, str):
        raise malformed(f"The arguments of a call are {kind(value)}; they must be an object or text.", message)
    try:
        parsed = parse_json(value)
    except ValueError:
        return value
    check_depth(parsed, "A call's arguments", message)
    return parsed if isinstance(parsed, dict) else value


def read_call(value: Any, message: int) -> ToolCall:
    """One call: {"name", "arguments"}, bare, under `function`, or as JSON text. Anthropic's `input` is read too."""
    call = json_field(value, "A tool call", message)
    if not isinstance(call, dict):
        raise malformed(f'A tool call is {kind(call)}; it must be an object with "name" and "arguments".', message)
    function = call.get("function")
    if not isinstance(function, dict):
        function = {**call, "name": function} if isinstance(function, str) else call
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise malformed(f"A tool call's name is {kind(name)}; it must be the tool's name.", message)
    arguments = agreed(function, ("arguments", "parameters", "input"), message)
    return ToolCall(name, read_arguments(arguments, message), text_field(call, "id", message))


def read_calls(value: Any, message: int) -> tuple[ToolCall, ...]:
    """One call or a list of them, as values or as JSON text."""
    calls = json_field(value, "tool_calls", message)
    if calls is None:
        return ()
    return tuple(read_call(call, message) for call in (calls if isinstance(calls, list) else [calls]))


def read_tools(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The row's tools in OpenAI's form, from a list or its JSON text; `functions` is the older name."""
    for name in TOOLS_FIELDS:
        tools = json_field(record.get(name), name)
        if tools:
            return tuple(_tool(tool, name) for tool in (tools if isinstance(tools, list) else [tools]))
    return ()


def _tool(value: Any, name: str) -> dict[str, Any]:
    tool = json_field(value, f"An entry of {name}")
    if not isinstance(tool, dict):
        raise malformed(f"An entry of {name} is {kind(tool)}; it must be an object that describes a function.")
    check_depth(tool, f"An entry of {name}")
    tool = _without_nulls(tool)
    function = tool.get("function")
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return tool if "type" in tool else {"type": "function", **tool}
    if (
        function is None
        and isinstance(tool.get("name"), str)
        and tool.get("type", "function") in ("function", "custom")
    ):
        names = {"input_schema": "parameters"}  # Anthropic's
        return {
            "type": "function",
            "function": {names.get(key, key): item for key, item in tool.items() if key != "type"},
        }
    raise malformed(f"An entry of {name} names no function; it must have the name under `function` or `name`.")


def _without_nulls(schema: Any) -> Any:
    """`schema` without null-valued keys, which Arrow's struct unification adds, and datasets' exports keep.

    A null `default` stays where the schema itself allows null: it is what the tool's author wrote.
    """
    if isinstance(schema, list):
        return [_without_nulls(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _without_nulls(item) for key, item in schema.items() if item is not None}
    if "default" in schema and schema["default"] is None and _allows_null(schema):
        return {key: kept.get(key) for key in schema if key in kept or key == "default"}
    return kept


def _allows_null(schema: dict[str, Any]) -> bool:
    types = schema.get("type")
    lists = [schema[name] for name in ("anyOf", "oneOf") if isinstance(schema.get(name), list)]
    choices = [choice for choices in lists for choice in choices]
    return (
        types == "null"
        or (isinstance(types, list) and "null" in types)
        or schema.get("nullable") is True
        or any(isinstance(choice, dict) and choice.get("type") == "null" for choice in choices)
    )


def read_template_kwargs(record: Mapping[str, Any]) -> dict[str, Any]:
    """Template variables of this row, from an object or its JSON text."""
    value = json_field(agreed(record, KWARGS_FIELDS), "chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise malformed(f"chat_template_kwargs is {kind(value)}; it must be an object.")
    check_depth(value, "chat_template_kwargs")
    if taken := next((name for name in _RENDERED if name in value), None):
        raise malformed(f"chat_template_kwargs sets {taken}, which every rendering sets itself; leave it out.")
    return {key: item for key, item in value.items() if item is not None}


def read_id(record: Mapping[str, Any]) -> str | None:
    """The row's own name, from the first of the usual fields that holds text or a whole number."""
    for name in ID_FIELDS:
        value = record.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def refuse_media(record: Mapping[str, Any], message: int | None = None) -> None:
    """Raise RowError where a row or a message brings images, video or sound beside its text."""
    for name in MEDIA_FIELDS:
        if record.get(name):
            raise RowError("unsupported_content", f"The row has {name}; only text is trained. Remove the row.", message)
