"""Prepared examples kept on disk under a fingerprint of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import numpy as np

import agentsft
from agentsft.config import DataConfig
from agentsft.data.paths import Source, find_sources
from agentsft.encode.parallel import prepare_compact
from agentsft.encode.prepare import Preparer
from agentsft.types import Example, Refusal, TokenTree

_log = logging.getLogger(__name__)

_NODES = ("input_ids", "position_ids", "subtree_end")
_TARGETS = ("source", "token", "weight", "label")
_DTYPES = dict.fromkeys(_NODES + _TARGETS, np.int32) | {"weight": np.float32, "label": np.int8}
_FACTS = ("source", "lost_turns", "lost_tokens", "straddling", "split_tokens", "id", "turn_count", "task")
_CODE = ("data", "render", "weigh", "encode", "types.py", "errors.py")
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "numpy", "datasets", "pyarrow")


def prepare_cached(
    config: DataConfig,
    preparer: Preparer,
    paths: list[str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Example]:
    """Every row of the settings' data, or of `paths`, as a compact example: from the cache, or prepared and kept.

    Of several processes that want the same rows at once, one prepares and the others wait for its file. Data that
    cannot be fingerprinted (a hub data set) and a cache folder that cannot be written are no errors: the rows are
    prepared then. `advance` hears of each row. Raises UserError as `prepare_compact` does.
    """
    key = fingerprint(config, preparer, config.data if paths is None else paths)
    with _locked_file(key) as file:
        examples = _load(file) if file else None
        if examples is None:
            examples = []
            for example in prepare_compact(config, preparer, paths):
                examples.append(example)
                if advance:
                    advance(1)
            if file:
                _keep(file, examples)
        elif advance:
            advance(len(examples))
    return examples


def cache_folder() -> Path:
    """$AGENTSFT_CACHE/prepared, else agentsft/prepared in $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("AGENTSFT_CACHE"):
        return Path(own).expanduser() / "prepared"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agentsft" / "prepared"


def fingerprint(config: DataConfig, preparer: Preparer, paths: list[str]) -> str | None:
    """32 hexadecimal digits that change with whatever an example depends on; None where that cannot be known.

    They cover the data files' paths (which the ledger names) and contents, the settings of reading, the tokenizer's
    whole state, the template with its variables, what was found out about it, the tables of weights, the limits, the
    code that prepares and its libraries. A template that asks for the time is good for a day.
    """
    sources = find_sources(paths)
    if any(source.kind == "hub" for source in sources):
        return None
    template = preparer.template
    facts = {
        "data": [(source.kind, source.path, _content(source)) for source in sources],
        "reading": (config.data_format, config.reasoning, config.agent_format),
        "tokenizer": _digest(preparer.tokenizer.backend_tokenizer.to_str().encode()),
        "special_tokens": {name: str(token) for name, token in template.special_tokens.items()},
        "template": (template.text, template.kwargs),
        "day": date.today().isoformat() if "strftime_now" in template.text else None,
        "traits": asdict(preparer.traits),
        "control_tokens": preparer.renderer.allow_control_tokens,
        "weights": (preparer.loss_scale.base, [strategy.rows for strategy in preparer.loss_scale.strategies]),
        "mask_history": preparer.mask_history,
        "length": (preparer.max_length, preparer.overflow),
        "code": (agentsft.__version__, _code(), {name: _version(name) for name in _LIBRARIES}),
    }
    # No sorting of keys: a template may iterate over a variable, whose order counts then.
    return _digest(json.dumps(facts, default=repr).encode())


@contextmanager
def _locked_file(key: str | None) -> Iterator[Path | None]:
    """Where the examples of a fingerprint are kept, locked against other processes; None where there is no place.

    The system lets go of the lock when its holder dies, so nobody waits for ever.
    """
    if key is None:
        yield None
        return
    with ExitStack() as stack:
        file = cache_folder() / f"{key}.safetensors"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.with_suffix(".lock").open("w"))
        except OSError as error:
            _log.warning("prepared rows are not kept: %s cannot be written (%s)", file.parent, error)
            yield None
            return
        _lock(lock)
        yield file


def _lock(file: TextIO) -> None:
    """Hold an open file alone. A system without such locks lets every process prepare for itself: slow, not wrong."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return


def _content(source: Source) -> str:
    """A hash of a file's bytes, or of all files of a folder with their names."""
    root = Path(source.path)
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    hashes = []
    for path in files:
        try:
            with path.open("rb") as file:
                hashes.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            hashes.append((path.name, repr(error)))  # reading will say what is wrong, and nothing is kept
    return _digest(json.dumps(hashes).encode())


@cache
def _code() -> str:
    """A hash of the package's own files that have a say in what an example is."""
    root = Path(agentsft.__file__).parent
    places = [root / name for name in _CODE]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    parts = [
        (path.relative_to(root).as_posix(), _digest(path.read_bytes()))
        for path in sorted(files)
        if path.suffix in (".py", ".json")
    ]
    return _digest(json.dumps(parts).encode())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _keep(file: Path, examples: list[Example]) -> None:
    """Write aside and rename, so that a file under its own name is whole."""
    from safetensors.numpy import save_file

    aside = None
    try:
        handle, aside = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".part")
        os.close(handle)
        tensors = _to_arrays(examples)
        save_file(tensors, aside, metadata={"crc32": _checksum(tensors)})
        os.replace(aside, file)
    except OSError as error:
        _log.warning("prepared rows are not kept: %s cannot be written (%s)", file, error)
        if aside:
            Path(aside).unlink(missing_ok=True)


def _load(file: Path) -> list[Example] | None:
    """The examples in a cache file, or None where there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            if _checksum(tensors) != (opened.metadata() or {}).get("crc32"):
                raise ValueError("its checksum is wrong")
        return list(_from_arrays(tensors))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        _log.warning("%s is damaged (%s); its rows are prepared anew", file, error)
        return None


def _to_arrays(examples: list[Example]) -> dict[str, np.ndarray]:
    """All trees end to end, where each one starts, and the rest as JSON bytes."""
    trees = [example.tree for example in examples if example.tree is not None]
    arrays = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(tree, name) for tree in trees)], dtype=dtype)
        for name, dtype in _DTYPES.items()
    }
    arrays["node_offsets"] = np.cumsum([0, *(len(tree) for tree in trees)], dtype=np.int64)
    arrays["target_offsets"] = np.cumsum([0, *(len(tree.source) for tree in trees)], dtype=np.int64)
    rows = [
        {
            "index": example.index,
            "tree": example.tree is not None,
            "refusal": example.refusal and asdict(example.refusal),
            "lost": example.lost and asdict(example.lost),
            **{name: getattr(example, name) for name in _FACTS},
        }
        for example in examples
    ]
    arrays["rows"] = np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8)
    return arrays


def _from_arrays(arrays: dict[str, np.ndarray]) -> Iterator[Example]:
    nodes, targets = arrays["node_offsets"].tolist(), arrays["target_offsets"].tolist()
    number = 0
    for row in json.loads(arrays["rows"].tobytes()):
        tree = None
        if row.pop("tree"):
            node = slice(nodes[number], nodes[number + 1])
            target = slice(targets[number], targets[number + 1])
            tree = TokenTree(
                **{name: arrays[name][node] for name in _NODES}, **{name: arrays[name][target] for name in _TARGETS}
            )
            number += 1
        refusal, lost = (row.pop(name) for name in ("refusal", "lost"))
        yield Example(tree=tree, refusal=refusal and Refusal(**refusal), lost=lost and Refusal(**lost), **row)


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).data.cast("B") if arrays[name].size else b"", total)
    return f"{total:08x}"


assert {"index", "tree", "refusal", "lost", "turns", "conversation", *_FACTS} == {f.name for f in fields(Example)}
