"""Compact examples as arrays: one file of prepared data, in memory or mapped from the disk."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from agentsft.encode.tree import split_tokens
from agentsft.errors import UserError
from agentsft.types import Example, Refusal, TokenTree

Arrays = dict[str, np.ndarray]

_COUNTS = ("lost_turns", "lost_tokens", "straddling", "split_tokens", "turn_count")
_OF_TREE = ("has_tree", "tokens", "trained", "target_count", "depth", "split", "text", "targets")
COLUMNS = ("index", *_COUNTS, "identity", *_OF_TREE)
"""Numbers of each row, int64[n]. Its number over all files and what `Example` counts; `identity`, a digest of its id
(with the file's name where the id is a number), 0 without one. Of its tree, 0 without one: whether it has one, tokens,
targets of weight > 0, all targets, tokens of the longest path and of all paths, digests of the ids and of the targets.
"""
_TEXTS = ("source", "id", "task")
_TARGETS = ("source", "token", "weight", "label")
_DTYPES: dict[str, Any] = {"input_ids": np.int32, "run_start": np.int32, "run_depth": np.int32, "run_end": np.int32}
_DTYPES |= {f"target_{name}": np.int32 for name in _TARGETS} | {"target_weight": np.float32, "target_label": np.int8}
_DTYPE_NAMES = {"I64": np.int64, "I32": np.int32, "F32": np.float32, "I8": np.int8, "U8": np.uint8}


def to_arrays(examples: Sequence[Example]) -> Arrays:
    """All of `examples`: columns, texts, faults, and all trees end to end.

    A tree's positions and subtree ends are kept as runs, one for each stretch between two forks: `run_start` is where
    in the tree it begins, `run_depth` the position there, `run_end` the subtree end of all its tokens.
    """
    arrays: Arrays = {}
    trees = [example.tree for example in examples]
    runs = [_runs(tree) for tree in trees]
    parts = {"input_ids": [tree.input_ids for tree in trees if tree is not None]}
    for k, name in enumerate(("run_start", "run_depth", "run_end")):
        parts[name] = [run[k] for run in runs if run is not None]
    for name in _TARGETS:
        parts[f"target_{name}"] = [getattr(tree, name) for tree in trees if tree is not None]
    for name, dtype in _DTYPES.items():
        arrays[name] = np.concatenate([np.empty(0, dtype), *parts[name]], dtype=dtype)
    arrays["at_node"] = _offsets(0 if tree is None else len(tree) for tree in trees)
    arrays["at_run"] = _offsets(0 if run is None else len(run[0]) for run in runs)
    arrays["at_target"] = _offsets(0 if tree is None else len(tree.source) for tree in trees)
    numbers = [_numbers(example) for example in examples]
    for k, name in enumerate(COLUMNS):
        arrays[name] = np.array([row[k] for row in numbers], np.int64)
    for name in _TEXTS:
        _put_texts(arrays, name, [getattr(example, name) for example in examples])
    faults = [
        (k, name, asdict(fault))
        for k, example in enumerate(examples)
        for name in ("refusal", "lost")
        if (fault := getattr(example, name)) is not None
    ]
    arrays["faults"] = np.frombuffer(json.dumps(faults).encode(), np.uint8)
    return arrays


class Shard:
    """Examples as the arrays of `to_arrays`, read one by one.

    `crc32` is the checksum of the token arrays, compared when the first of them is read. Of a mapped file the system
    keeps in memory what is in use.
    """

    def __init__(self, arrays: Arrays, path: Path | None = None, crc32: str | None = None) -> None:
        self._arrays, self._path, self._crc32 = arrays, path, crc32
        self.faults: dict[int, dict[str, Refusal]] = {}
        for k, name, fault in json.loads(arrays["faults"].tobytes()):
            self.faults.setdefault(k, {})[name] = Refusal(**fault)

    def __len__(self) -> int:
        return len(self._arrays["index"])

    def column(self, name: str) -> np.ndarray:
        """One of `COLUMNS`, int64[n]."""
        return self._arrays[name]

    def text(self, name: str, row: int) -> Any:
        """`source`, `id` or `task` of a row; None where it has none."""
        start, end = self._arrays[f"{name}_at"][row : row + 2]
        data = self._arrays[f"{name}_text"][start:end].tobytes()
        return json.loads(data) if data else None

    def tree(self, row: int) -> TokenTree | None:
        """The token tree of a row. Raises UserError where the file has been damaged."""
        if not self._arrays["has_tree"][row]:
            return None
        self.verify()
        node, run, target = (self._slice(name, row) for name in ("at_node", "at_run", "at_target"))
        ids = self._arrays["input_ids"][node]
        start, depth, end = (self._arrays[name][run] for name in ("run_start", "run_depth", "run_end"))
        lengths = np.diff(start, append=np.int32(len(ids)))
        return TokenTree(
            input_ids=ids,
            position_ids=np.arange(len(ids), dtype=np.int32) + np.repeat(depth - start, lengths),
            subtree_end=np.repeat(end, lengths),
            **{name: self._arrays[f"target_{name}"][target] for name in _TARGETS},
        )

    def example(self, row: int) -> Example:
        """The compact example of a row."""
        facts: dict[str, Any] = {name: int(self._arrays[name][row]) for name in ("index", *_COUNTS)}
        facts |= {name: self.text(name, row) for name in _TEXTS} | self.faults.get(row, {})
        return Example(tree=self.tree(row), **facts)

    def verify(self) -> None:
        """Compares the checksum of the tokens, once. Raises UserError where it is wrong."""
        if self._crc32 is not None and checksum(self._arrays, tokens=True) != self._crc32:
            raise UserError(f"{self._path}: this file of prepared rows is damaged; delete it and start again.")
        self._crc32 = None

    def _slice(self, name: str, row: int) -> slice:
        start, end = self._arrays[name][row : row + 2].tolist()
        return slice(start, end)


def checksum(arrays: Arrays, tokens: bool) -> str:
    """CRC-32 of the token arrays, or of all others."""
    total = 0
    for name in sorted(arrays):
        if (name in _DTYPES) == tokens and arrays[name].size:
            total = zlib.crc32(np.ascontiguousarray(arrays[name]).data.cast("B"), total)
    return f"{total:08x}"


def map_file(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a safetensors file, mapped and not read, and its metadata.

    safetensors' own reader copies a tensor as a whole. Raises OSError or ValueError where it is no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        if not 2 <= head <= size - 8:
            raise ValueError("it is cut short")
        header = json.loads(file.read(head))
    metadata = header.pop("__metadata__", {})
    if size - 8 - head != max((entry["data_offsets"][1] for entry in header.values()), default=0):
        raise ValueError("it is cut short")
    data = np.memmap(path, np.uint8, mode="r", offset=8 + head) if size > 8 + head else np.empty(0, np.uint8)
    plain = np.asarray(data)  # views of np.memmap are slow to make
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        arrays[name] = plain[start:end].view(_DTYPE_NAMES[entry["dtype"]])
    return arrays, metadata


def _numbers(example: Example) -> list[int]:
    tree = example.tree
    of_tree = [0] * len(_OF_TREE)
    if tree is not None:
        trained = int((tree.weight > 0).sum())
        depth = int(tree.position_ids.max()) + 1 if len(tree) else 0
        split = example.split_tokens or split_tokens(tree)
        targets = tree.source.tobytes() + tree.token.tobytes() + tree.weight.tobytes()
        digests = [_digest(tree.input_ids.tobytes() + tree.subtree_end.tobytes()), _digest(targets)]
        of_tree = [1, len(tree), trained, len(tree.source), depth, split, *digests]
    return [example.index, *(getattr(example, name) for name in _COUNTS), _identity(example), *of_tree]


def _identity(example: Example) -> int:
    """A name counts everywhere, a number in its own file alone: many files number their rows from 0."""
    if not example.id:
        return 0
    name = str(example.id)
    file = re.sub(r"[:#]\d+$", "", example.source) if name.isdigit() else ""
    return _digest(json.dumps([file, name]).encode())


def _digest(data: bytes) -> int:
    """64 bits of BLAKE2, never 0. Python's own hash is another one in each process."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True) or 1


def _runs(tree: TokenTree | None) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    if tree is None:
        return None
    breaks = (np.diff(tree.position_ids) != 1) | (np.diff(tree.subtree_end) != 0)
    start = np.concatenate([[0], np.flatnonzero(breaks) + 1]) if len(tree) else np.zeros(0, np.int64)
    return start.astype(np.int32), tree.position_ids[start], tree.subtree_end[start]


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _put_texts(arrays: Arrays, name: str, values: Iterable[Any]) -> None:
    data = [b"" if value is None else json.dumps(value).encode() for value in values]
    arrays[f"{name}_text"] = np.frombuffer(b"".join(data), np.uint8)
    arrays[f"{name}_at"] = _offsets(map(len, data))


_kept = {"index", "tree", "refusal", "lost", "turns", "conversation", *_COUNTS, *_TEXTS}
assert _kept == {field.name for field in fields(Example)}
