"""An entry of axolotl's `datasets` as one of `data`: its path, and its names for fields and roles as `columns`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsft.errors import UserError, nearest, shown

_FIELDS = {
    "field_messages": "messages",
    "field_system": "system",
    "field_tools": "tools",
    "field_thinking": "reasoning_content",
    "message_field_role": "role",
    "message_field_content": "content",
    "message_field_training": "train",
    "message_field_training_detail": "training_detail",
}
_OF_TYPE = {"field_instruction": "instruction", "field_input": "input", "field_output": "output"}
_OF_TYPE |= {"field_system": "system"}
_TYPES: dict[str, dict[str, str]] = {
    "chat_template": {},
    "sharegpt": {"messages": "conversations", "role": "from", "content": "value"},
    "alpaca": {"instruction": "instruction", "output": "output"},
    "alpaca_chat.load_qa": {"question": "question", "answer": "answer"},
}
_NO_TEMPLATE = "the model's own chat template is used; chat_template of the recipe names another, as a file"
_AS_IT_IS: dict[str, tuple[tuple[Any, ...], str]] = {
    "roles_to_train": ((["assistant"], ["gpt"]), "loss_scale says which messages are trained, for all data"),
    "train_on_eos": (("turn",), "the stop token of each trained message is trained, and no other"),
    "train_on_eot": (("turn",), "the stop token of each trained message is trained, and no other"),
    "drop_system_message": ((False,), "remove the system messages from the file"),
    "split_thinking": (
        (False,),
        "the template finds <think> blocks itself, or put the thinking into reasoning_content",
    ),
    "chat_template": (("tokenizer_default",), _NO_TEMPLATE),
    "chat_template_jinja": ((), _NO_TEMPLATE),
    "trust_remote_code": ((False,), "data never runs code"),
    "ds_type": (("json", "jsonl", "parquet"), "a file's kind is told by the end of its name"),
}
"""What may be said, since it is so here; and what to do where something else is said."""
_PLACE = ("split", "name", "data_files")
KEYS = ("type", "roles", "message_property_mappings", *_FIELDS, *_AS_IT_IS, *_PLACE)


def is_axolotl(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has a key of axolotl's."""
    return any(key in KEYS for key in entry)


def translated(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entry as {path, weight, columns}. Raises UserError, with what to do, for what would be passed over."""
    path = entry.get("path")
    where = f"{where}: {path}"
    kept = {key: value for key, value in entry.items() if key not in KEYS}
    if "columns" in kept:
        raise UserError(f"{where}: has columns and axolotl's {next(key for key in entry if key in KEYS)}; keep one.")
    for key, (allowed, instead) in _AS_IT_IS.items():
        if entry.get(key) is not None and entry[key] not in allowed:
            raise UserError(f"{where}: {key}: {shown(entry[key])} is not read: {instead}.")
    columns: dict[str, Any] = {**_of_type(entry.get("type"), where), **_named(entry, _FIELDS)}
    for ours, theirs in _mapping(entry, "message_property_mappings", where).items():
        if columns.setdefault(ours, theirs) != theirs:
            raise UserError(f"{where}: {ours} is {columns[ours]!r} and, in message_property_mappings, {theirs!r}.")
    columns |= {"roles": roles} if (roles := _mapping(entry, "roles", where)) else {}
    return {**kept, "path": _place(entry, path, where), **({"columns": columns} if columns else {})}


def _of_type(kind: Any, where: str) -> dict[str, str]:
    """The names that a type implies."""
    if kind is None:
        return {}
    if isinstance(kind, dict):  # a type of the user's own
        if other := next((key for key in kind if key not in _OF_TYPE and kind[key]), None):
            raise UserError(
                f"{where}: type: {other} is not read: {_NO_TEMPLATE}, and a row's system text stands in its `system`."
            )
        return _named(kind, _OF_TYPE)
    name = str(kind).partition(":")[0]
    found = _TYPES.get(str(kind)) or _TYPES.get(name.partition(".")[0] if name.startswith("sharegpt") else name)
    if found is None:
        guess = nearest(str(kind), tuple(_TYPES)) or f" Read are {', '.join(_TYPES)}, and a mapping of fields."
        raise UserError(f"{where}: type: {shown(kind)} is not read.{guess}")
    return found


def _named(entry: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, str]:
    return {ours: entry[theirs] for theirs, ours in fields.items() if entry.get(theirs) is not None}


def _mapping(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = entry.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} takes a mapping, not {shown(value)}.")
    return value


def _place(entry: Mapping[str, Any], path: Any, where: str) -> Any:
    """The path, with the configuration and split of a hub data set behind it."""
    if entry.get("data_files") is not None:
        raise UserError(f"{where}: data_files is not read; give each file as a path of its own.")
    if isinstance(path, str) and "." not in path.rpartition("/")[2] and path[:1] not in "./~":
        rest = [entry[key] for key in ("name", "split") if isinstance(entry.get(key), str)]
        return ":".join([path, *rest, *(["train"] if len(rest) == 1 and entry.get("name") else [])])
    if entry.get("split") not in (None, "train") or entry.get("name") is not None:
        raise UserError(f"{where}: split and name belong to hub data sets; give the file of that split as path.")
    return path
