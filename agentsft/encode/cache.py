"""Prepared examples kept on disk, in shards, under a fingerprint of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import agentsft
from agentsft.config import DataConfig
from agentsft.data.paths import Source, find_sources
from agentsft.encode.examples import Examples, in_shards
from agentsft.encode.parallel import prepare_compact
from agentsft.encode.prepare import Preparer
from agentsft.encode.shard import Shard, checksum, map_file, to_arrays
from agentsft.errors import UserError
from agentsft.types import Example

_log = logging.getLogger(__name__)

VERIFIED = 1 << 30
"""Bytes of prepared data up to which all checksums are compared at the start; those of more when it is first read."""

_CODE = ("data", "render", "weigh", "encode", "types.py", "errors.py")
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "numpy", "datasets", "pyarrow")


def prepare_cached(
    config: DataConfig,
    preparer: Preparer,
    paths: list[str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Examples:
    """Every row of the settings' data, or of `paths`, as a compact example: from the cache, or prepared and kept.

    Rows are kept in shards as they are prepared, so that a preparation that was killed goes on behind the last whole
    one. Of several processes that want the same rows at once, one prepares and the others wait for it. Data that
    cannot be fingerprinted (a hub data set) and a cache folder that cannot be written are no errors: the rows are
    prepared then. `advance` hears of each row. Raises UserError as `prepare_compact` does.
    """
    key = fingerprint(config, preparer, config.data if paths is None else paths)
    with _locked_file(key) as file:
        shards, whole = _load(file) if file else ([], False)
        done = sum(map(len, shards))
        if advance and done:
            advance(done)
        if not whole:
            rest = counted(prepare_compact(config, preparer, paths, done), advance)
            shards += _kept(file, len(shards), rest)
    return Examples(shards)


def prepared(config: DataConfig, preparer: Preparer, paths: list[str] | None = None) -> Examples | None:
    """What `prepare_cached` would find, where it would find everything; nothing is prepared."""
    key = fingerprint(config, preparer, config.data if paths is None else paths)
    shards, whole = _load(cache_folder() / key) if key else ([], False)
    return Examples(shards) if whole else None


def counted(examples: Iterator[Example], advance: Callable[[int], None] | None) -> Iterator[Example]:
    """`examples`, each of which `advance` hears of."""
    for example in examples:
        yield example
        if advance:
            advance(1)


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
    sources = find_sources(paths, config.columns)
    if any(source.kind == "hub" for source in sources):
        return None
    template = preparer.template
    facts = {
        "data": [(source.kind, source.path, _content(source), source.columns) for source in sources],
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
    """What the names of a fingerprint's files begin with, locked against other processes; None where there is no place.

    The system lets go of the lock when its holder dies, so nobody waits for ever.
    """
    if key is None:
        yield None
        return
    with ExitStack() as stack:
        file = cache_folder() / key
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


def _shard_file(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}-{number:05}.safetensors")


def _kept(file: Path | None, first: int, examples: Iterator[Example]) -> Iterator[Shard]:
    """`examples` in shards, written as number `first` and on, and mapped; in memory where they cannot be written."""
    for leftover in file.parent.glob(f"{file.name}*.part") if file else ():  # of a killed preparation
        leftover.unlink(missing_ok=True)
    for number, (part, last) in enumerate(in_shards(examples), start=first):
        shard = _written(_shard_file(file, number), part, last) if file else None
        if shard is None:  # what comes behind a gap would never be found
            file, shard = None, Shard(to_arrays(part))
        yield shard


def _written(path: Path, examples: list[Example], last: bool) -> Shard | None:
    """Write aside and rename, so that a file under its own name is whole. None where there is no room for it."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    aside = None
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        os.close(handle)
        arrays = to_arrays(examples)
        checks = {"tokens_crc32": checksum(arrays, tokens=True), "facts_crc32": checksum(arrays, tokens=False)}
        save_file(arrays, aside, metadata={**checks, "last": str(last)})
        os.replace(aside, path)
        return Shard(map_file(path)[0], path)
    except (OSError, SafetensorError) as error:
        _log.warning("prepared rows are not kept: %s cannot be written (%s)", path, error)
        if aside:
            Path(aside).unlink(missing_ok=True)
        return None


def _load(file: Path) -> tuple[list[Shard], bool]:
    """The shards of a fingerprint that are whole, from the first on, and whether they are all of them."""
    shards: list[Shard] = []
    size, whole = 0, False
    while not whole and (path := _shard_file(file, len(shards))).exists():
        try:
            size += path.stat().st_size
            arrays, metadata = map_file(path)
            if checksum(arrays, tokens=False) != metadata["facts_crc32"]:
                raise ValueError("its checksum is wrong")
            shard = Shard(arrays, path, metadata["tokens_crc32"])
            if size <= VERIFIED:
                shard.verify()
            whole = metadata["last"] == "True"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # UserError is a ValueError
            reason = "its checksum is wrong" if isinstance(error, UserError) else error
            _log.warning("%s is damaged (%s); its rows and those behind it are prepared anew", path, reason)
            return shards, False
        shards.append(shard)
    return shards, whole
