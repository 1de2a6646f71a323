"""What the user named: files, folders, globs and hub data sets become a list of sources, in order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentsft.data.columns import Columns, divided
from agentsft.data.dataset_info import declared, is_declared
from agentsft.errors import UserError

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
_OTHER_SUFFIXES = {
    ".csv",
    ".tsv",
    ".txt",
    ".gz",
    ".zst",
    ".bz2",
    ".xz",
    ".zip",
    ".tar",
    ".arrow",
    ".yaml",
    ".yml",
    ".md",
}
_ABOUT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.+-]+){0,2}")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one hub data set. `kind` is jsonl, json, parquet, saved (a folder of save_to_disk) or hub.

    `columns` renames its rows, where they have names of their own.
    """

    kind: str
    path: str
    columns: Columns | None = None


def find_sources(paths: Sequence[str], columns: Mapping[str, Any] | None = None) -> list[Source]:
    """Every file behind `paths`, in the order given, a folder's or a glob's sorted by name.

    `columns` are the names that the rows have, of all data or by path (the setting of that name); a file of
    LLaMA-Factory's, `dataset_info.json:NAME`, brings its own. Raises UserError for a path that is not there, a folder
    without data, a file of another kind and names that cannot be.
    """
    paths = [paths] if isinstance(paths, str) else paths
    common, own = divided(columns or {})
    shared = Columns(common, "columns") if common else None
    sources: list[Source] = []
    for path in paths:
        named = Columns(own[path], f"columns: {path}") if path in own else shared
        found = _find(os.path.expanduser(os.fspath(path)))
        sources += [replace(source, columns=named) for source in found] if named else found
    for source in sources:
        if _UNPRINTABLE.search(source.path):
            raise UserError(
                f"{source.path!r}: the name has line breaks, control characters or bytes that are no text; rename it."
            )
    return sources


def _find(path: str) -> list[Source]:
    if is_declared(path):
        names, columns = declared(path)
        return [replace(source, columns=columns) for name in names for source in _find(name)]
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.exists(path):
        kind = SUFFIXES.get(Path(path).suffix.lower())
        if kind is None:
            raise UserError(f"{path}: not a kind of file that is read; give {_kinds()}.")
        return [Source(kind, path)]
    if glob.has_magic(path):
        return _in_glob(path)
    if _looks_like_a_file(path):
        file, _, rows = path.rpartition("#")
        some = " For some of its rows: data_weights." if rows.isdigit() and os.path.exists(file) else ""
        raise UserError(f"{path}: no such file or folder.{some}")
    return [Source("hub", path)]


def _in_folder(folder: str) -> list[Source]:
    sources: list[Source] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if {"state.json", "dataset_info.json"} <= set(names):
            sources.append(Source("saved", root))
        sources += [Source(SUFFIXES[_suffix(name)], os.path.join(root, name)) for name in names if _is_data(name)]
    if not sources:
        raise UserError(f"{folder}: no data in this folder; it needs {_kinds()}.")
    return sorted(sources, key=lambda source: source.path)


def _in_glob(pattern: str) -> list[Source]:
    sources: list[Source] = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        # With ** a folder comes up beside its own files: those are found by themselves.
        if os.path.isdir(path) and "**" not in pattern:
            sources += _in_folder(path)
        elif os.path.isfile(path) and _is_data(os.path.basename(path)):
            sources.append(Source(SUFFIXES[_suffix(path)], path))
    if not sources:
        raise UserError(f"{pattern}: no data matches this pattern; it should find {_kinds()}.")
    return sources


def _looks_like_a_file(path: str) -> bool:
    suffix = _suffix(path)
    return suffix in SUFFIXES or suffix in _OTHER_SUFFIXES or path[:1] in ".~" or not _HUB_NAME.fullmatch(path)


def _is_data(name: str) -> bool:
    return _suffix(name) in SUFFIXES and not name.startswith(".") and name not in _ABOUT_DATA


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _kinds() -> str:
    return "a .jsonl, .json or .parquet file"
