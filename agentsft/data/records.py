"""Sources -> raw records, one by one: (where it stands, its value, or the RowError that says why it has none)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from agentsft.data.formats import detect
from agentsft.data.json_text import LENIENT, list_elements, object_members, parse_json, skip_space
from agentsft.data.paths import Source
from agentsft.errors import RowError, UserError

Record = tuple[str, Any]

_PARQUET_BATCH = 256  # rows turned into Python objects at a time


def read_records(source: Source) -> Iterator[Record]:
    """The records of a source. A record is a JSON value or a RowError. Raises UserError when the file is at fault."""
    try:
        if source.kind == "json" and source.columns:
            yield from _json(source.path, source.columns.fits)
        else:
            yield from _READERS[source.kind](source.path)
    except OSError as error:
        raise UserError(f"{source.path}: cannot be read ({_one_line(error)}).") from error


def _jsonl(path: str) -> Iterator[Record]:
    """One JSON value a line, read line by line: our own reader, since it survives bad lines and knows their numbers."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                _refuse_utf16(line, path)
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.isspace() and line:
                yield f"{path}:{number}", _json_line(line)


def _json_line(line: bytes) -> Any:
    try:
        return parse_json(line.decode())
    except UnicodeDecodeError as error:
        return RowError("malformed_json", f"Byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8.")
    except ValueError as error:
        return RowError("malformed_json", f"The line is not one JSON value: {_one_line(error)}. Mend or delete it.")


def _json(path: str, fits: Callable[[dict[str, Any]], bool] | None = None) -> Iterator[Record]:
    """A JSON list of rows, an object that holds one such list, a single row, or JSON lines under another name.

    `fits` says whether an object is a row, where rows have names of their own.
    """
    with open(path, "rb") as file:
        data = file.read()
    _refuse_utf16(data, path)
    # Bytes that are no UTF-8 become lone surrogates, so that only the rows that hold them are refused.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    broken_bytes = not text.isascii() and _has_surrogates(text)
    try:
        start = skip_space(text, 0)
        alone = text.startswith("[", start)
        if text.startswith("{", start):
            value, end = LENIENT.raw_decode(text, start)
            if skip_space(text, end) < len(text):
                yield from _jsonl(path)
                return
            if (fits or _is_row)(value):
                yield f"{path}#0", _checked(*_strict(text), broken_bytes)
                return
            start = _only_list(text, start, path)
        elif not alone:
            raise UserError(f"{path}: holds no list of rows; the top level is a list, or an object with one list.")
        for row, (value, fault) in enumerate(list_elements(text, start, alone)):
            yield f"{path}#{row}", _checked(value, fault, broken_bytes)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {_one_line(error)}. Mend it, or use JSONL.") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read.") from None


def _strict(text: str) -> tuple[Any, ValueError | None]:
    try:
        return parse_json(text), None
    except ValueError as error:
        return None, error


def _checked(value: Any, fault: ValueError | None, broken_bytes: bool) -> Any:
    if fault is not None:
        return RowError("malformed_json", f"The row is not faithful JSON: {_one_line(fault)}. Mend or delete it.")
    if broken_bytes and _has_surrogates(json.dumps(value, ensure_ascii=False)):
        return RowError("malformed_json", "The row holds bytes that are not UTF-8; save the file as UTF-8.")
    return value


def _is_row(value: dict[str, Any]) -> bool:
    """Whether a file's top-level object is itself a row, as when a file holds a single conversation."""
    try:
        detect(value)
    except RowError:
        return False
    return True


def _only_list(text: str, start: int, path: str) -> int:
    """Where the one list among an object's values starts."""
    lists = [(key, at) for key, at, _ in object_members(text, start) if text.startswith("[", at)]
    if len(lists) != 1:
        found = ", ".join(repr(key) for key, _ in lists) or "none"
        raise UserError(f"{path}: an object with exactly one list is read; its lists are: {found}.")
    return lists[0][1]


def _parquet(path: str) -> Iterator[Record]:
    """Row groups read through pyarrow, which `datasets` brings and itself reads Parquet with.

    Directly, since it streams 100 times faster than load_dataset(streaming=True) and leaves no copy in a cache.
    Columns of the feature type Json are decoded by `datasets`.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            decode = _json_columns(file.schema_arrow)
            row = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for record in _python_rows(batch, decode):
                    yield f"{path}#{row}", record
                    row += 1
    except (pyarrow.ArrowException, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({_one_line(error)}).") from error


def _python_rows(batch: Any, decode: Callable[[Any], Any]) -> list[Any]:
    """The rows of an Arrow batch, each a record or the RowError of what Python cannot take, such as bytes in a text."""
    try:
        return [strip_nulls(decode(record)) for record in batch.to_pylist()]
    except Exception as error:
        if len(batch) == 1:
            return [RowError("malformed", f"The row cannot be read ({_one_line(error)}); mend or delete it.")]
    return [row for number in range(len(batch)) for row in _python_rows(batch.slice(number, 1), decode)]


def _json_columns(schema: Any) -> Callable[[Any], Any]:
    if "arrow.json" not in str(schema) and b'"Json"' not in (schema.metadata or {}).get(b"huggingface", b""):
        return lambda record: record
    from datasets import Features

    return Features.from_arrow_schema(schema).decode_example


def _saved(path: str) -> Iterator[Record]:
    """A folder written by Dataset.save_to_disk."""
    from datasets import load_from_disk

    for row, record in enumerate(load_from_disk(path)):
        yield f"{path}#{row}", strip_nulls(record)


def _hub(name: str) -> Iterator[Record]:
    """A hub data set: `name`, `name:split` or `name:configuration:split`. Without a split, train or the only one."""
    from datasets import get_dataset_split_names, load_dataset

    repository, *rest = name.split(":")
    configuration = rest[0] if len(rest) == 2 else None
    try:
        split = rest[-1] if rest else _default_split(name, get_dataset_split_names(repository))
        dataset = load_dataset(repository, configuration, split=split)
    except UserError:
        raise
    except Exception as error:  # datasets raises errors of many kinds: no network, no such name, no such split
        raise UserError(f"{name}: no such file, and no hub data set could be loaded ({_one_line(error)}).") from error
    for row, record in enumerate(dataset):
        yield f"{name}#{row}", strip_nulls(record)


def _default_split(name: str, splits: list[str]) -> str:
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return splits[0]
    raise UserError(f"{name}: has the splits {', '.join(splits)}; name one, such as {name}:{splits[0]}.")


def strip_nulls(value: Any) -> Any:
    """`value` without null-valued keys, at any depth.

    Arrow gives every struct of a column all the keys that any of its rows has, null where a row never had them; and
    pandas writes NaN for null.
    """
    if isinstance(value, dict):
        return {
            key: strip_nulls(item)
            for key, item in value.items()
            if item is not None and not (isinstance(item, float) and item != item)
        }
    if isinstance(value, list):
        return [strip_nulls(item) for item in value]
    return value


def _refuse_utf16(data: bytes, path: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8.")


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


_READERS: dict[str, Callable[[str], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "saved": _saved,
    "hub": _hub,
}
