"""The front door of reading: paths in, numbered rows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentsft.data.agent_format import AGENT_FORMATS, fold
from agentsft.data.formats import DATA_FORMATS, inline_reasoning, to_conversation
from agentsft.data.messages import unread_fields
from agentsft.data.paths import Source, find_sources
from agentsft.data.records import read_records
from agentsft.errors import RowError, UserError, nearest
from agentsft.types import Refusal, Row

_REASONING = ("keep", "inline")


def read_rows(
    paths: Sequence[str],
    data_format: str = "auto",
    reasoning: str = "keep",
    agent_format: str | None = None,
    unread: Counter[str] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Iterator[Row]:
    """The rows behind `paths`, in order, numbered over all of them: each a conversation, or a refusal that says why.

    A path is a JSONL, JSON or Parquet file, a folder of them (searched to any depth, sorted), a glob, or the name of
    a hub data set (`name`, `name:split`, `name:configuration:split`). JSONL and Parquet are streamed.
    `reasoning="inline"` folds reasoning into the content; `agent_format` folds tools and calls into plain text.
    `unread`, where it is given, counts the messages that have fields which nothing reads, by the field's name, and the
    rows with an answer that is not trained. `columns` are names that the rows have for ours, of all data or by path.

    Raises UserError at once for settings and paths that do not exist, and while reading for a file that is broken as
    a whole. A bad row never stops the others.
    """
    _check("data_format", data_format, DATA_FORMATS)
    _check("reasoning", reasoning, _REASONING)
    if agent_format is not None:
        _check("agent_format", agent_format, AGENT_FORMATS)
    rows = _rows(find_sources(paths, columns), data_format, unread)
    return (
        rows if (reasoning, agent_format) == ("keep", None) else (folded(row, reasoning, agent_format) for row in rows)
    )


def folded(row: Row, reasoning: str, agent_format: str | None) -> Row:
    """A row with its tools, calls and reasoning in its texts, or the refusal that says why it cannot be."""
    if row.conversation is None:
        return row
    try:
        conversation = row.conversation
        # Folding comes first: a format may have words of its own for reasoning, such as ReAct's Thought.
        if agent_format is not None:
            conversation = fold(conversation, agent_format)
        return replace(row, conversation=inline_reasoning(conversation) if reasoning == "inline" else conversation)
    except RowError as error:
        return _refused(row.index, row.source, error)
    except RecursionError:
        return _refused(row.index, row.source, _TOO_DEEP)


def _rows(sources: list[Source], data_format: str, unread: Counter[str] | None) -> Iterator[Row]:
    index = 0
    for source in sources:
        columns = source.columns
        for where, record in read_records(source):
            try:
                if columns is not None:
                    if unread is not None:
                        unread.update(columns.unread(record))
                    record = columns(record)
                if isinstance(record, RowError):
                    raise record
                yield Row(index, where, to_conversation(record, data_format))
            except RowError as error:
                yield _refused(index, where, error)
            except RecursionError:
                yield _refused(index, where, _TOO_DEEP)
            index += 1
            if unread is not None:
                unread.update(unread_fields(record))
    for columns in {id(source.columns): source.columns for source in sources}.values():
        if columns is not None:
            columns.check()
    if index == 0:
        raise UserError(f"{', '.join(source.path for source in sources) or 'no data'}: there is no row in it.")


_TOO_DEEP = RowError("malformed", "The row is nested too deeply; flatten it.")


def _refused(index: int, source: str, error: RowError) -> Row:
    return Row(index, source, refusal=Refusal(error.reason, error.detail, error.message))


def _check(setting: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{setting} is one of {', '.join(known)}; not {value!r}.{nearest(value, known)}")
