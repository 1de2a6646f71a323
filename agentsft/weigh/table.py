"""Reading the table of a strategy: the built-in ones, a user's own, a plugin's, and ms-swift's.

A table is a JSON object with at least one kind of pattern:

    {"description": "what it is for, in one line",
     "keywords": {"Action:": [2, 2]},            literal text: its own weight, and that of what follows up to the next
     "regex": {"<tool_call>.+?</tool_call>": 2}, expression in Python's syntax, DOTALL: the weight of each match
     "regex_at_start": {"<think>\\n?": 0},        the same, at the start of a response alone
     "query_contains": [{"text": ["What is"], "weight": 3}]}   the whole response to a query that holds one of these

All that no pattern reaches weighs 1. A table with several kinds works like several tables joined by `+`: the weights
multiply; only `query_contains` sets the other kinds aside.

ms-swift's tables are taken as they are: {"Action:": [2, 2], "<b>.+?</b>": [0]}, where two numbers make a keyword and
one an expression, and {"response": {...such a table...}, "query": {"What is": [3]}}. (ms-swift skips the expressions
of a table that has keywords; here they count.)
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from agentsft.data.json_text import repeated
from agentsft.errors import UserError, nearest
from agentsft.weigh.strategy import Regex, Strategy

FIELDS = ("description", "keywords", "regex", "regex_at_start", "query_contains")

_LITERAL = r"[^\\.^$*+?{}\[\]|()]+"
_TWO_LITERALS = re.compile(rf"({_LITERAL})\.([+*])\?({_LITERAL})")


def read_table(path: Path) -> Any:
    """The JSON value in a file. Raises UserError, naming the file, when it cannot be read or has a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise UserError(f"{path}: the key {repeated(pairs)[:100]!r} is there twice; keep one of them.")
        return table

    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
        json.dumps(table, ensure_ascii=False).encode()  # raises ValueError where a surrogate stands alone
        return table
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --loss-scale takes a strategy's name or the path of a table.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}).") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); a table of weights is a UTF-8 JSON file.") from None


def strategy_from_table(table: Any, name: str, origin: str, where: str) -> Strategy:
    """The strategy that a table describes. Raises UserError, naming `where` and the key, on anything wrong in it.

    Expressions of tables that are not `built in` are searched with a time-out.
    """
    if not isinstance(table, dict):
        raise UserError(f"{where}: a table of weights is a JSON object, not a {type(table).__name__}.")
    table = _own_form(table, where)
    for key in table:
        if key not in FIELDS:
            raise UserError(
                f"{where}: unknown key {key!r}; a table has {', '.join(FIELDS)}.{nearest(str(key), FIELDS)}"
            )
    description = table.get("description", "")
    if not isinstance(description, str):
        raise UserError(f"{where}: description takes one line of text, not {description!r}.")
    guard = origin != "built in"
    strategy = Strategy(
        name=name,
        origin=origin,
        description=description,
        keywords=tuple(
            (keyword, own, after)
            for keyword, weights in _mapping(table, "keywords", where)
            for own, after in [_numbers(weights, 2, f"{where}: keywords: {keyword!r}")]
        ),
        regexes=tuple(
            _regex(pattern, weight, field == "regex_at_start", guard, f"{where}: {field}")
            for field in ("regex_at_start", "regex")
            for pattern, weight in _mapping(table, field, where)
        ),
        queries=tuple(_queries(table.get("query_contains", []), f"{where}: query_contains")),
    )
    if not strategy.rows:
        raise UserError(f"{where}: no pattern in it; give keywords, regex, regex_at_start or query_contains.")
    return strategy


def _own_form(table: dict[str, Any], where: str) -> dict[str, Any]:
    """The table with the fields above, whether it came with them or in ms-swift's form."""
    if "response" in table and set(table) <= {"response", "query"}:
        response, query = table["response"], table.get("query", {})
        if not isinstance(response, dict) or not isinstance(query, dict):
            raise UserError(f"{where}: response and query each take an object of patterns and weights.")
        phrases = [{"text": [text], "weight": weight} for text, weight in query.items()]
        return {**_from_flat(response, where), "query_contains": phrases}
    if (
        table
        and not set(table) & set(FIELDS)
        and all(isinstance(value, (list, int, float)) for value in table.values())
    ):
        return _from_flat(table, where)
    return table


def _from_flat(table: dict[str, Any], where: str) -> dict[str, Any]:
    for pattern, weights in table.items():
        if not isinstance(weights, list) or len(weights) not in (1, 2):
            raise UserError(
                f"{where}: {pattern!r} takes [weight, weight after it] (a keyword) or [weight] (an expression),"
                f" not {weights!r}."
            )
    return {
        "keywords": {pattern: weights for pattern, weights in table.items() if len(weights) == 2},
        "regex": {pattern: weights for pattern, weights in table.items() if len(weights) == 1},
    }


def _mapping(table: dict[str, Any], field: str, where: str) -> list[tuple[str, Any]]:
    patterns = table.get(field, {})
    if not isinstance(patterns, dict):
        raise UserError(f"{where}: {field} takes an object of patterns and weights, not {patterns!r}.")
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError(f"{where}: {field} has an empty pattern; a pattern has at least one character.")
    return list(patterns.items())


def _numbers(value: Any, count: int, where: str) -> tuple[float, ...]:
    """`count` weights, each finite and at least 0; a single one need not be in a list."""
    values = value if isinstance(value, list) else [value]
    numbers = [_number(item) for item in values]
    if len(values) != count or not all(math.isfinite(number) and number >= 0 for number in numbers):
        form = "two numbers, [its weight, the weight of what follows]" if count == 2 else "one number"
        raise UserError(f"{where} takes {form}, each finite and at least 0, not {value!r}.")
    return tuple(numbers)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _regex(pattern: str, weight: Any, at_start: bool, guard: bool, where: str) -> Regex:
    (number,) = _numbers(weight, 1, f"{where}: {pattern!r}")
    compiled: Any
    try:
        compiled = re.compile(pattern, re.DOTALL)
        if guard:
            import regex

            compiled = regex.compile(pattern, regex.DOTALL | regex.VERSION0)
    except Exception as error:  # of re, of regex, or too deep or too large: whatever it is, the pattern is at fault
        raise UserError(f"{where}: {pattern!r} is not a regular expression that Python knows ({error}).") from None
    literals = _TWO_LITERALS.fullmatch(pattern)
    ends = (literals[1], literals[3], int(literals[2] == "+")) if literals else None
    return Regex(pattern, number, at_start, compiled, ends, where)


def _queries(entries: Any, where: str) -> list[tuple[str, float]]:
    form = 'a list of {"text": ["phrase", ...], "weight": number}'
    if not isinstance(entries, list):
        raise UserError(f"{where} takes {form}, not {entries!r}.")
    queries = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"text", "weight"}:
            raise UserError(f"{where} takes {form}, not {entry!r}.")
        phrases = entry["text"] if isinstance(entry["text"], list) else [entry["text"]]
        if not phrases or not all(isinstance(phrase, str) and phrase for phrase in phrases):
            raise UserError(f"{where}: text takes a list of phrases that are not empty, not {entry['text']!r}.")
        (weight,) = _numbers(entry["weight"], 1, f"{where}: weight")
        queries += [(phrase, weight) for phrase in phrases]
    return queries
