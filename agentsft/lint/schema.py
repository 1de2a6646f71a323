"""Arguments against a tool's JSON Schema: without network, and bounded in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from agentsft.lint.finding import excerpt

_REFERENCES = 2000
"""A schema may follow so many references for one call; one that needs more is written to be slow."""

_PATTERN_SECONDS = 0.5
_DETAIL = 140
_TOO_SLOW = "its references or patterns take too long to follow"
_slow: set[str] = set()
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_TYPES_OF_PYTHON = {
    "dict": "object", "list": "array", "tuple": "array", "set": "array", "str": "string", "text": "string",
    "int": "integer", "float": "number", "double": "number", "bool": "boolean", "None": "null", "any": "no type at all",
}  # fmt: skip


class _TooSlowError(Exception):
    """The schema takes too long, or too many references, to be checked."""


class SchemaFaultError(ValueError):
    """The schema itself is at fault; its text says how."""


def argument_fault(schema: Any, arguments: Any) -> str | None:
    """What of `arguments` the schema does not allow, in one line, or None. Raises SchemaFaultError for a broken schema.

    References outside the schema are never fetched: they make it a broken one.
    """
    import jsonschema
    from referencing.exceptions import Unresolvable

    text = json.dumps(schema, default=repr)
    validator, fault = _validator(text)
    if validator is None or text in _slow:
        raise SchemaFaultError(fault or _TOO_SLOW)
    _followed.clear()
    try:
        error = next(validator.iter_errors(arguments), None)
    except Unresolvable as unresolvable:
        raise SchemaFaultError(f"$ref {unresolvable.ref!r} leads nowhere") from None
    except (_TooSlowError, RecursionError):
        _slow.add(text)  # or every call would take as long
        raise SchemaFaultError(_TOO_SLOW) from None
    except (jsonschema.exceptions.UnknownType, TypeError, ValueError, AttributeError) as error:
        raise SchemaFaultError(excerpt(str(error), size=_DETAIL)) from None
    return None if error is None else _told(error)


def _told(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    return (f"{place}: " if place else "") + excerpt(error.message, size=_DETAIL)


def _told_of_schema(error: Any) -> str:
    """The message of the most frequent fault, a type of another language, is put more plainly."""
    if error.absolute_path and error.absolute_path[-1] == "type":
        place, name = ".".join(map(str, error.absolute_path)), error.instance
        known = _TYPES_OF_PYTHON.get(name) if isinstance(name, str) else None
        return f"{place} is {excerpt(repr(name), size=40)}, JSON Schema has {known or ', '.join(_TYPES)}"
    return _told(error)


@lru_cache(maxsize=1024)
def _validator(text: str) -> tuple[Any, str]:
    """(validator, "") for a schema's JSON, or (None, what is wrong with it)."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from jsonschema_specifications import REGISTRY

    schema = json.loads(text)
    try:
        draft = validator_for(schema, default=Draft202012Validator)
        draft.check_schema(schema)
    except SchemaError as error:
        return None, _told_of_schema(error)
    except Exception as error:  # a schema may be nested, or refer, in ways that the check does not survive
        return None, excerpt(f"{type(error).__name__}: {error}", size=_DETAIL)
    return _bounded(draft)(schema, registry=REGISTRY), ""


_followed: list[None] = []
"""One entry for each reference that the validation at hand has followed."""


@cache
def _bounded(draft: Any) -> Any:
    """The draft's validator with a budget of references, and with patterns that know time-outs."""
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    known = draft.VALIDATORS

    def counted(keyword: str) -> Any:
        def follow(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            _followed.append(None)
            if len(_followed) > _REFERENCES:
                raise _TooSlowError
            yield from known[keyword](validator, value, instance, schema) or ()

        return follow

    def pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and not _search(value, instance):
            yield ValidationError(f"{instance!r} does not match {value!r}")

    def pattern_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        for expression, inner in value.items() if isinstance(instance, dict) else ():
            for name, item in instance.items():
                if _search(expression, name):
                    yield from validator.descend(item, inner, path=name, schema_path=expression)

    def unless_patterns(keyword: str) -> Any:
        # These search the patterns again, without a time-out: where there are patterns, they are left out.
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            if "patternProperties" not in schema:
                yield from known[keyword](validator, value, instance, schema) or ()

        return check

    own = {keyword: counted(keyword) for keyword in ("$ref", "$dynamicRef", "$recursiveRef") if keyword in known}
    own |= {k: unless_patterns(k) for k in ("additionalProperties", "unevaluatedProperties") if k in known}
    return extend(draft, {**own, "pattern": pattern, "patternProperties": pattern_properties})


def _search(pattern: str, text: str) -> bool:
    import regex

    try:
        return regex.search(pattern, text, timeout=_PATTERN_SECONDS) is not None
    except TimeoutError:
        raise _TooSlowError from None
