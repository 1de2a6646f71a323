"""A user's own names of columns, of the fields of messages and of roles, made ours before anything reads a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentsft.data.alpaca import ANSWER_FIELDS, ASK_FIELDS
from agentsft.data.fields import (
    ID_FIELDS,
    KWARGS_FIELDS,
    MEDIA_FIELDS,
    REASONING_FIELDS,
    SYSTEM_FIELDS,
    TOOLS_FIELDS,
    TRAIN_FIELDS,
    WEIGHT_FIELDS,
    field_names,
    json_field,
)
from agentsft.data.messages import DETAIL_FIELDS, MESSAGE_FIELDS, ROLES
from agentsft.errors import RowError, UserError, nearest, shown

Names = dict[str, str]
_Groups = tuple[tuple[str, ...], ...]

_OF_ROWS: _Groups = (
    *(MESSAGE_FIELDS, ASK_FIELDS, ANSWER_FIELDS, ("input",), ("history",), SYSTEM_FIELDS, TOOLS_FIELDS),
    *(KWARGS_FIELDS, ID_FIELDS, ("label", "kto_tag"), *((name,) for name in MEDIA_FIELDS)),
)
_OF_MESSAGES: _Groups = (
    *(("role", "from"), ("content", "value"), REASONING_FIELDS, ("tool_calls",), ("function_call",)),
    *(("tool_call_id",), ("name",), TRAIN_FIELDS, WEIGHT_FIELDS, DETAIL_FIELDS),
)
"""Names that mean the same. Each may be a key; the others of its group are then not read."""

_USUAL = "messages, instruction, input, output, history, system, tools, role, content, roles"
_MOST_MET = 200


class Columns:
    """Renames a row. `given` goes from our names to theirs, `roles` within it from a role to theirs, one or several.

    What is not named is found under its usual names, but with `only`: then a row is what is named and its id.
    `assumed` are names that no row need have; of any other, `check` raises an error where no row had it.
    """

    def __init__(self, given: Mapping[str, Any], where: str, only: bool = False, assumed: Iterable[str] = ()) -> None:
        self.where = where
        self._text = f"{dict(given)}{' only' if only else ''}"
        names = {key: value for key, value in given.items() if key != "roles"}
        for key, value in names.items():
            self._check_name(key, value, names)
        self._row = _Level(names, _OF_ROWS, assumed)
        self._message = _Level(names, _OF_MESSAGES, assumed)
        self._roles = self._read_roles(given.get("roles"))
        if self._row.names.keys() & {*ASK_FIELDS, *ANSWER_FIELDS}:
            self._row.hidden |= set(MESSAGE_FIELDS)
        self._only = only

    def __repr__(self) -> str:
        return f"Columns({self._text})"

    def __call__(self, record: Any) -> Any:
        """The row under our names. Raises RowError missing_column where it has not what it must have."""
        if not isinstance(record, Mapping):
            return record
        self._row.look(record)
        row = self._row.renamed({key: record[key] for key in ID_FIELDS if key in record} if self._only else record)
        row |= {ours: record[theirs] for ours, theirs in self._row.names.items() if theirs in record}
        for ours, theirs in self._row.names.items():
            if ours not in row and ours in (*MESSAGE_FIELDS, *ASK_FIELDS, *ANSWER_FIELDS) and not row.get("input"):
                raise self._missing(ours, theirs, record)
        if self._message.names or self._roles:
            for name in (*MESSAGE_FIELDS, *ASK_FIELDS, *ANSWER_FIELDS):
                value = row.get(name)
                if isinstance(value, str) and name in MESSAGE_FIELDS:
                    value = json_field(value, self._row.names.get(name, name))
                if isinstance(value, list):
                    row[name] = [self._of_message(item, index) for index, item in enumerate(value)]
        return row

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether an object is a row: it has the messages or the answer that are named."""
        return any(
            theirs in record for ours, theirs in self._row.names.items() if ours in (*MESSAGE_FIELDS, *ANSWER_FIELDS)
        )

    def unread(self, record: Any) -> list[str]:
        """The columns that a row has filled, and that would be read if `only` were not set."""
        if not (self._only and isinstance(record, Mapping)):
            return []
        known = {name for group in _OF_ROWS for name in group} - {*ID_FIELDS, *self._row.names.values()}
        return [name for name in record if name in known and record[name]]

    def check(self) -> None:
        """Raise UserError for a name that no row, or no message, had."""
        for level, what in ((self._row, "row"), (self._message, "message")):
            for ours, theirs in level.names.items():
                if theirs in level.unseen and level.met:
                    guess = (
                        nearest(theirs, sorted(level.met))
                        or f" Fields: {field_names(dict.fromkeys(sorted(level.met)))}."
                    )
                    raise UserError(f"{self.where}: no {what} has {theirs!r}, which is to be {ours}.{guess}")

    def _of_message(self, item: Any, index: int) -> Any:
        if not isinstance(item, Mapping):
            return item
        self._message.look(item)
        message = self._message.renamed(item)
        message |= {ours: item[theirs] for ours, theirs in self._message.names.items() if theirs in item}
        for ours, theirs in self._message.names.items():
            bare = ours in ("content", "value") and not any(message.get(name) for name in _INSTEAD_OF_CONTENT)
            if ours not in message and (bare or ours in ("role", "from")):
                raise self._missing(ours, theirs, item, index)
        role = "role" if message.get("role") is not None else "from"
        if self._roles and isinstance(message.get(role), str):
            message[role] = self._roles.get(message[role], message[role])
        return message

    def _missing(self, ours: str, theirs: str, record: Mapping[str, Any], index: int | None = None) -> RowError:
        what = "row" if index is None else "message"
        guess = nearest(theirs, [key for key in record if isinstance(key, str)])
        detail = f"The {what} has no {theirs!r}, which {self.where} names for {ours}.{guess}"
        return RowError("missing_column", f"{detail} Its fields are {field_names(record)}.", index)

    def _check_name(self, key: str, value: Any, names: Mapping[str, Any]) -> None:
        group = next((group for group in (*_OF_ROWS, *_OF_MESSAGES) if key in group), None)
        if group is None:
            if isinstance(value, str) and any(value in group for group in (*_OF_ROWS, *_OF_MESSAGES)):
                raise UserError(f"{self.where}: from our name to yours, so write {value}: {key}, not {key}: {value}.")
            known = [name for group in (*_OF_ROWS, *_OF_MESSAGES) for name in group]
            raise UserError(
                f"{self.where}: unknown name {shown(key)}.{nearest(key[:100], known) or f' Known: {_USUAL}.'}"
            )
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.where}: {key} takes the name that your rows have for it, not {shown(value)}.")
        other = next((name for name in names if name != key and name in group), None)
        if other is not None and names[other] != value:
            hint = "; what stands below the question is input" if group is ASK_FIELDS else ""
            raise UserError(f"{self.where}: {key} and {other} mean the same; name one of them{hint}.")
        groups = _OF_ROWS if group in _OF_ROWS else _OF_MESSAGES
        for name, theirs in names.items():
            if name not in group and theirs == value and any(name in group for group in groups):
                raise UserError(f"{self.where}: {shown(value)} cannot be both {key} and {name}.")

    def _read_roles(self, value: Any) -> Names:
        """Their name of each role -> ours."""
        roles: Names = {}
        if value is None:
            return roles
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: roles takes a mapping such as user: human, not {shown(value)}.")
        for ours, named in value.items():
            if ours not in ROLES:
                raise UserError(f"{self.where}: roles: unknown role {shown(ours)}.{self._role_hint(ours, named)}")
            for theirs in named if isinstance(named, list) else [named]:
                if not isinstance(theirs, str):
                    raise UserError(
                        f"{self.where}: roles: {ours} takes a name or a list of names, not {shown(theirs)}."
                    )
                there = roles.setdefault(theirs, ours)
                if ROLES[there] != ROLES[ours]:
                    raise UserError(f"{self.where}: roles: {theirs!r} cannot be both {there} and {ours}.")
        return roles

    def _role_hint(self, ours: Any, named: Any) -> str:
        if isinstance(named, str) and named in ROLES:
            return f" It goes from our role to yours: {named}: {ours}."
        return nearest(str(ours)[:100], tuple(ROLES)) or f" Known roles: {', '.join(ROLES)}."


_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", *REASONING_FIELDS)


class _Level:
    """The names of one level, of rows or of messages: what stands for what, what is hidden by it, and what was met."""

    def __init__(self, given: Mapping[str, str], groups: _Groups, assumed: Iterable[str]) -> None:
        self.names = {ours: theirs for ours, theirs in given.items() if any(ours in group for group in groups)}
        named = {name for group in groups for name in group if any(ours in group for ours in self.names)}
        self.hidden = named | set(self.names.values())
        self.unseen = set(self.names.values()) - set(assumed)
        self.met: set[str] = set()

    def look(self, record: Mapping[str, Any]) -> None:
        if self.unseen:
            self.unseen.difference_update(record)
            if len(self.met) < _MOST_MET:
                self.met.update(record)

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What of a record is neither renamed nor hidden."""
        return {key: value for key, value in record.items() if key not in self.hidden}


def divided(columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The names for all data, and those of single paths: a key other than `roles` whose value is a mapping."""
    own = {key: value for key, value in columns.items() if key != "roles" and isinstance(value, dict)}
    return {key: value for key, value in columns.items() if key not in own}, own


def check_columns(columns: Mapping[str, Any], paths: list[str], where: str) -> None:
    """Raise UserError for names that cannot be, and for those of a path that is none of the data."""
    common, own = divided(columns)
    Columns(common, where)
    for path, names in own.items():
        if paths and path not in paths:  # a recipe may be without the data that a flag names
            guess = nearest(path, paths) or f" The data is {', '.join(paths)}."
            raise UserError(f"{where}: {shown(path)} is neither a name of ours nor a path of the data.{guess}")
        Columns(names, f"{where}: {path}")
