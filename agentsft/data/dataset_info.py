"""LLaMA-Factory's dataset_info.json: `dataset_info.json:NAME` is the data that it declares under that name.

Its columns and tags are obeyed as they are there: what `columns` does not name is not read, and without `columns` or
`tags` its defaults stand.
"""

from __future__ import annotations

import os
from typing import Any

from agentsft.data.columns import Columns
from agentsft.data.json_text import parse_json
from agentsft.errors import UserError, nearest, shown

_FORMATTINGS = ("alpaca", "sharegpt", "openai")
_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "kto_tag": "kto_tag"}
_COLUMNS |= {name: name for name in ("history", "messages", "system", "tools", "images", "videos", "audios")}
_PAIR = ("chosen", "rejected")
_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "observation"}
_ROLES |= {"function_tag": "function_call", "system_tag": "system"}
_TAGS = {"role_tag": "role", "content_tag": "content"}
_DEFAULT_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
_HUB = ("hf_hub_url", "ms_hub_url", "om_hub_url")
_ELSEWHERE = ("script_url", "cloud_file_name", "folder", "num_samples")
_KEYS = ("file_name", *_HUB, *_ELSEWHERE, "formatting", "ranking", "subset", "split", "columns", "tags")


def is_declared(path: str) -> bool:
    """Whether a path names an entry of such a file, or the file itself, which is no data."""
    return os.path.basename(path) == "dataset_info.json" or (not os.path.exists(path) and _file(path) is not None)


def declared(path: str) -> tuple[list[str], Columns]:
    """The paths that `FILE:NAME` stands for, and the names of their rows. Raises UserError for what cannot be."""
    file = _file(path)
    if file is None:
        known = ", ".join(list(_read(path))[:20])
        raise UserError(f"{path}: says what other files hold; name one of them, as {path}:NAME. It has {known}.")
    entries, name = _read(file), path[len(file) + 1 :]
    if name not in entries:
        guess = nearest(name, tuple(entries)) or f" It has {', '.join(list(entries)[:20])}."
        raise UserError(f"{file}: there is no {name!r}.{guess}")
    entry = entries[name]
    if not isinstance(entry, dict):
        raise UserError(f"{path}: is {shown(entry)}; it must be an object with file_name and columns.")
    _refuse(entry, path)
    return [_target(entry, file, path)], _columns(entry, path)


def _file(path: str) -> str | None:
    file, colon, name = path.rpartition(":")
    return file if colon and name and file.lower().endswith(".json") and os.path.isfile(file) else None


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8-sig") as text:
            entries = parse_json(text.read())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); mend it.") from None
    if not isinstance(entries, dict):
        raise UserError(f"{file}: holds no names; to read it as data, give it without `:NAME`.")
    return entries


def _refuse(entry: dict[str, Any], path: str) -> None:
    """Raise UserError for what would be passed over."""
    _known(entry, _KEYS, path)
    if entry.get("ranking"):
        raise UserError(
            f"{path}: ranking: pairs of a chosen and a rejected answer are no data to imitate; leave it out."
        )
    if found := next((key for key in _ELSEWHERE if entry.get(key)), None):
        raise UserError(f"{path}: {found} is not read; give the file itself as file_name.")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in _FORMATTINGS:
        guess = nearest(str(formatting), _FORMATTINGS)
        raise UserError(f"{path}: formatting is one of {', '.join(_FORMATTINGS)}; not {shown(formatting)}.{guess}")
    for key, known in (("columns", (*_COLUMNS, *_PAIR)), ("tags", (*_TAGS, *_ROLES))):
        if not isinstance(entry.get(key, {}), dict):
            raise UserError(f"{path}: {key} is {shown(entry[key])}; it must be an object of names.")
        _known(entry.get(key, {}), known, f"{path}: {key}")


def _known(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := next((key for key in given if key not in known), None):
        guess = nearest(unknown, known) or f" Known: {', '.join(known)}."
        raise UserError(f"{where}: unknown key {shown(unknown)}.{guess}")


def _target(entry: dict[str, Any], file: str, path: str) -> str:
    """The file, beside dataset_info.json, or the hub data set."""
    if hub := next((entry[key] for key in _HUB if entry.get(key)), None):
        return ":".join([hub, *filter(None, [entry.get("subset")]), entry.get("split") or "train"])
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: has no file_name; name the file, as it is found from {os.path.dirname(file) or '.'}.")
    target = os.path.join(os.path.dirname(file), name)
    if not os.path.exists(target):
        raise UserError(f"{path}: file_name: {target}: no such file or folder.")
    return target


def _columns(entry: dict[str, Any], path: str) -> Columns:
    alpaca = entry.get("formatting", "alpaca") == "alpaca"
    named = {_COLUMNS[key]: name for key, name in entry.get("columns", {}).items() if key in _COLUMNS and name}
    defaults = {} if "columns" in entry else {_COLUMNS[key]: name for key, name in _DEFAULT_COLUMNS.items()}
    defaults = defaults if alpaca else {"messages": "conversations"} if "columns" not in entry else {}
    given: dict[str, Any] = {**defaults, **named}
    if missing := next((key for key in (("output",) if alpaca else ("messages",)) if key not in given), None):
        wanted = next(key for key, name in _COLUMNS.items() if name == missing)
        raise UserError(f"{path}: columns names no {wanted}; a row of {entry.get('formatting', 'alpaca')} needs it.")
    if not alpaca:
        tags = {key: name for key, name in entry.get("tags", {}).items() if name}
        given |= {_TAGS[key]: name for key, name in tags.items() if key in _TAGS}
        given["roles"] = {_ROLES[key]: name for key, name in tags.items() if key in _ROLES}
    return Columns(given, path, only=True, assumed=defaults.values())
