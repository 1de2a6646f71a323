"""Arguments against JSON Schemas that are right, broken, or written to do harm."""

from __future__ import annotations

import socket
import time
import urllib.request
from typing import Any

import pytest

from agentsft.lint.linter import Linter
from agentsft.lint.schema import SchemaFaultError, argument_fault
from agentsft.types import Conversation, Message, ToolCall
from agentsft.weigh.loss_scale import parse_loss_scale

DOUBLING: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}

BROKEN: dict[str, tuple[Any, str]] = {
    "a type of another language": ({"type": "dict", "properties": {}}, "type is 'dict', JSON Schema has object"),
    "a type deep inside": ({"properties": {"n": {"type": "int"}}}, "n.type is 'int', JSON Schema has integer"),
    "a type of no language": ({"type": "thing"}, "JSON Schema has object, array, string"),
    "required as a switch": ({"properties": {"n": {"type": "string", "required": True}}}, "required"),
    "a list": ([1, 2], "is not of type"),
    "a pattern that is none": ({"properties": {"n": {"pattern": "("}}}, "pattern"),
    "a reference to nowhere": ({"$ref": "#/$defs/gone"}, "leads nowhere"),
    "a reference to a site": ({"$ref": "https://127.0.0.1:9/schema.json"}, "leads nowhere"),
    "a reference to a file": ({"$ref": "file:///etc/passwd"}, "leads nowhere"),
    "a reference to itself": ({"$ref": "#"}, "too long"),
    "references that double": ({"$ref": "#/$defs/a0", "$defs": {**DOUBLING, "a40": {}}}, "too long"),
    "a pattern that backtracks": ({"properties": {"n": {"pattern": "(a|aa)+$"}}}, "too long"),
    "a name that backtracks": ({"additionalProperties": False, "patternProperties": {"(a|aa)+$": {}}}, "too long"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_or_hostile_schema_is_said_in_one_line_without_network_in_bounded_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: reached.append(arguments))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *arguments: reached.append(arguments))
    schema, words = BROKEN[name]
    long = "a" * 40 + "!"
    started = time.monotonic()
    with pytest.raises(SchemaFaultError) as caught:
        argument_fault(schema, {"n": long, long: 1})
    assert time.monotonic() - started < 5
    assert not reached
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "arguments", "fault"),
    [
        ({}, {"x": 1}, None),
        (True, {"x": 1}, None),
        ({"properties": {"n": {"type": "integer"}}}, {"n": 3}, None),
        ({"properties": {"n": {"type": "integer"}}}, {"n": "3"}, "n: '3' is not of type 'integer'"),
        ({"properties": {"n": {"items": {"type": "string"}}}}, {"n": ["a", 1]}, "n[1]: 1 is not of type 'string'"),
        ({"properties": {"n": {"pattern": "^a+$"}}}, {"n": "aa"}, None),
        ({"properties": {"n": {"pattern": "^a+$"}}}, {"n": "b"}, "n: 'b' does not match '^a+$'"),
        ({"patternProperties": {"^n": {"type": "null"}}}, {"n1": 1, "m": 1}, "n1: 1 is not of type 'null'"),
        ({"additionalProperties": False}, {"x": 1}, "Additional properties are not allowed ('x' was unexpected)"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"required": ["x"]}}}, {}, "'x' is a required property"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "required": ["x"]}, {}, "'x' is a required property"),
        ({"$schema": "https://127.0.0.1:9/unknown", "required": ["x"]}, {}, "'x' is a required property"),
    ],
)
def test_arguments_are_judged_by_their_schema(schema: Any, arguments: Any, fault: str | None) -> None:
    assert argument_fault(schema, arguments) == fault


def test_a_broken_schema_is_one_warning_a_row_and_its_calls_are_not_judged() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "dict"}}}
    call = Message("assistant", tool_calls=(ToolCall("f", {"x": 1}), ToolCall("f", {})))
    (finding,) = Linter(parse_loss_scale("default")).row(Conversation((Message("user", "?"), call), (tool,)))
    assert (finding.kind, finding.message) == ("broken_schema", None)
    assert finding.detail.startswith("f: type is 'dict'")
