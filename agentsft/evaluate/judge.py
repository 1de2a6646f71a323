"""One generated response against what the row has there: verdicts, each only where it applies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentsft.data.json_text import parse_json
from agentsft.evaluate.formats import Call, Schemas
from agentsft.evaluate.reading import Reading, read_response, same_calls
from agentsft.lint.schema import SchemaFaultError, argument_fault
from agentsft.types import Message, Turn

METRICS = {
    "decision": "calls where the row calls, and answers where it answers",
    "valid_call": "the call can be read in the model's own format",
    "right_tool": "calls the tools of the row",
    "valid_arguments": "declared tools, with arguments that their JSON Schema allows",
    "exact_call": "the row's calls, with equal arguments",
    "react_action": "ReAct: the row's action",
    "react_input": "ReAct: the row's action with an equal input",
    "thinks": "thinks where the row thinks",
    "stops": "writes a stop token in time",
}
"""Name -> what is true of a turn that counts. The names are stable; new ones may be added."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a response is judged by: the row's own turn, read by the same reader.

    `calls` are the row's. `agentic`: there is something to decide, since the conversation has tools or calls.
    `readable`: the reader finds just the row's calls in the row's own response; where it does not (a format that it
    does not know, broken JSON in the row), no call is judged. `decidable`: it sees whether there is a call at all.
    `strict_schemas`: every called tool declares a sound JSON Schema.
    """

    prompt: str
    calls: tuple[Call, ...]
    thinking: frozenset[str]
    schemas: Schemas = field(default_factory=dict)
    agentic: bool = True
    readable: bool = True
    decidable: bool = True
    strict_schemas: bool = False


def references(
    messages: Sequence[Message], turns: Sequence[Turn], schemas: Schemas, format_known: bool = True
) -> list[Reference]:
    """What each turn of a conversation is judged by. `format_known`: the reader reads the template's calls."""
    readings = [read_response(turn.response, turn.prompt, schemas) for turn in turns]
    structured = [messages[turn.message].tool_calls for turn in turns]
    seen = all(reading.calls or not calls for reading, calls in zip(readings, structured, strict=True))
    agentic = bool(schemas) or any(reading.calls for reading in readings) or any(structured)
    return [
        _reference(messages[turn.message], turn, reading, schemas, agentic, seen and format_known)
        for turn, reading in zip(turns, readings, strict=True)
    ]


def _reference(
    message: Message, turn: Turn, reading: Reading, schemas: Schemas, agentic: bool, decidable: bool
) -> Reference:
    calls = reading.calls
    readable = decidable and not any(call.fault for call in calls)
    if message.tool_calls:
        expected = [Call(call.name, _value(call.arguments)) for call in message.tool_calls]
        readable = readable and same_calls(expected, calls)
    sound = bool(calls) and all(_is_sound(schemas.get(call.name)) for call in calls)
    return Reference(turn.prompt, calls, reading.thinking, schemas, agentic, readable, decidable, sound)


def _value(arguments: dict[str, Any] | str) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return parse_json(arguments)
    except (ValueError, RecursionError):
        return arguments


def _is_sound(schema: Any) -> bool:
    try:
        argument_fault(schema, {})
    except SchemaFaultError:
        return False
    return isinstance(schema, dict)


def judge(reference: Reference, response: str, stopped: bool) -> dict[str, bool]:
    """The verdicts that apply to this turn, by name. `response` is without its stop token.

    Which ones apply depends on the reference alone, so that every model is counted over the same turns.
    """
    reading = read_response(response, reference.prompt, reference.schemas)
    calls, expected = reading.calls, reference.calls
    verdicts: dict[str, bool] = {}
    if reference.agentic and reference.decidable:
        verdicts["decision"] = bool(calls) == bool(expected)
    if expected and reference.readable:
        valid = bool(calls) and not any(call.fault for call in calls)
        verdicts["valid_call"] = valid
        tools = bool(calls) and Counter(call.name for call in calls) == Counter(call.name for call in expected)
        react = any(call.react for call in expected)
        verdicts["react_action" if react else "right_tool"] = tools
        if reference.strict_schemas:
            verdicts["valid_arguments"] = valid and all(_allowed(call, reference.schemas) for call in calls)
        verdicts["react_input" if react else "exact_call"] = valid and same_calls(expected, calls)
    if reference.thinking:
        verdicts["thinks"] = reference.thinking <= reading.thinking
    verdicts["stops"] = stopped
    return verdicts


def _allowed(call: Call, schemas: Schemas) -> bool:
    if call.name not in schemas or not isinstance(call.arguments, dict):
        return False
    try:
        return argument_fault(schemas[call.name], call.arguments) is None
    except SchemaFaultError:  # of a tool that the row does not call here; there is nothing to hold against the call
        return True
