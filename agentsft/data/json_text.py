"""JSON, read strictly: what Python could not write back as it stood is an error, not a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn


class UnfaithfulError(ValueError):
    """JSON that parses, but not to one value that can be written back: duplicate keys, NaN, lone surrogates."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UnfaithfulError(f"key {repeated(pairs)[:100]!r} occurs twice in one object")
    return value


def repeated(pairs: list[tuple[str, Any]]) -> str:
    """The first key that is in `pairs` a second time; the empty text where none is."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    return ""


def _constant(name: str) -> NoReturn:
    raise UnfaithfulError(f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise UnfaithfulError(f"the number {text[:40]} is too large")
    return value


STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
LENIENT = json.JSONDecoder(parse_int=len)  # finds where a value ends; its numbers are never used
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NO_SPACE = re.compile(r"[^ \t\n\r]")


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, with a message in one line, on anything not faithful."""
    try:
        value = STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_surrogates(text, value)
    return value


def skip_space(text: str, position: int) -> int:
    """The position of the next character that is no JSON white space."""
    found = _NO_SPACE.search(text, position)
    return found.start() if found else len(text)


def list_elements(text: str, start: int, alone: bool = True) -> Iterator[tuple[Any, ValueError | None]]:
    """The elements of the JSON list that opens at `start`: (value, None), or (None, fault) for an unfaithful one.

    Raises json.JSONDecodeError where the list itself is broken, since what follows cannot be told apart, and where
    anything follows a list that should stand `alone`.
    """
    position = skip_space(text, start + 1)
    empty = text.startswith("]", position)
    while not empty:
        value, fault = None, None
        try:
            value, end = STRICT.raw_decode(text, position)
            _check_surrogates(text[position:end], value)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            fault = error
            _, end = LENIENT.raw_decode(text, position)
        yield value, fault
        position = skip_space(text, end)
        if text.startswith("]", position):
            break
        if not text.startswith(",", position):
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        position = skip_space(text, position + 1)
    position = skip_space(text, position + 1)
    if alone and position < len(text):
        raise json.JSONDecodeError("Something follows the list", text, position)


def object_members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """The members of the JSON object that opens at `start`, as (key, where its value starts, where it ends).

    Raises json.JSONDecodeError where the object is broken.
    """
    position = skip_space(text, start + 1)
    while not text.startswith("}", position):
        key, end = LENIENT.raw_decode(text, position)
        colon = skip_space(text, end)
        if not isinstance(key, str) or not text.startswith(":", colon):
            raise json.JSONDecodeError("Expecting a key and ':'", text, position)
        value_start = skip_space(text, colon + 1)
        _, end = LENIENT.raw_decode(text, value_start)
        yield key, value_start, end
        position = skip_space(text, end)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)
        elif not text.startswith("}", position):
            raise json.JSONDecodeError("Expecting ',' or '}'", text, position)


def _check_surrogates(text: str, value: Any) -> None:
    """Raise UnfaithfulError where an escape such as \\ud800 has no partner: such text has no UTF-8 form."""
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UnfaithfulError("an escape \\ud800 to \\udfff stands without its partner") from None
