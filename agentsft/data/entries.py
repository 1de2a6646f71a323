"""Entries of `data` and `eval_data` in a recipe: a path, or {path, weight, columns}; axolotl's form of one, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsft.data.axolotl import KEYS, is_axolotl, translated
from agentsft.errors import UserError, nearest, shown

_OURS = ("path", "weight", "columns")


def with_entries(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A recipe's values, each entry that is a mapping as a path, with what it says moved to data_weights and columns.

    Raises UserError for a mapping with other keys, a path that is none, and a path that is there twice and differs.
    """
    made = dict(values)
    for setting in ("data", "eval_data"):
        items = values.get(setting)
        items = items if isinstance(items, list) else [items]
        if any(isinstance(item, dict) for item in items):
            made[setting] = [_path(item, setting, made, f"{where}: {setting}") for item in items]
    return made


def _path(item: Any, setting: str, made: dict[str, Any], where: str) -> Any:
    """The path of an entry; its weight and columns go into `made`."""
    if not isinstance(item, dict):
        return item
    if is_axolotl(item):
        item = translated(item, where)
    if unknown := [key for key in item if key not in _OURS]:
        known = (*_OURS, *KEYS)
        guess = nearest(str(unknown[0]), known) or " An entry is a path or {path, weight, columns}."
        raise UserError(f"{where}: unknown key {shown(unknown[0])}.{guess}")
    path = item.get("path")
    if not isinstance(path, str):
        raise UserError(f"{where}: an entry of {{path, weight, columns}} needs a path, not {shown(path)}.")
    weight, columns = item.get("weight", 1), item.get("columns")
    if weight != 1 or isinstance(weight, bool):
        if setting != "data":
            raise UserError(f"{where}: {path}: held-out data has no weight; leave it out.")
        _put(made, "data_weights", path, weight, f"{where}: {path} is there twice with a weight; keep one of them.")
    if columns is not None:
        if not isinstance(columns, dict):
            raise UserError(f"{where}: {path}: columns takes a mapping such as messages: dialog, not {shown(columns)}.")
        _put(made, "columns", path, columns, f"{where}: {path} is there twice with columns; keep one of them.")
    return path


def _put(made: dict[str, Any], setting: str, path: str, value: Any, twice: str) -> None:
    there = made.get(setting) or {}
    if not isinstance(there, dict):
        raise UserError(f"{setting} takes a mapping, not {shown(there)}.")
    if path in there and (setting == "data_weights" or there[path] != value):
        raise UserError(twice)
    made[setting] = {**there, path: value}
