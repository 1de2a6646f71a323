"""Calls are read back from what a template writes, and from nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.data.agent_format import AGENT_FORMATS, fold
from agentsft.evaluate.formats import Call, read_block
from agentsft.evaluate.judge import references
from agentsft.evaluate.reading import equal, opened_by, read_response, same_calls
from agentsft.evaluate.take import reads_own_calls
from agentsft.types import Conversation, Message, ToolCall
from tests.cells import examples, preparer
from tests.conversations import KINDS, WEATHER
from tests.families import TEXT_TEMPLATES

SCHEMAS = {"get_weather": WEATHER["function"]["parameters"]}
WORDS = st.text(alphabet=st.characters(exclude_characters="<[✿", exclude_categories=["Cs"]))
"""Texts that hold no tag: a closing tag of thinking in an argument ends a block that the prompt may have opened."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(WORDS, VALUES, max_size=3)


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
def test_the_rows_own_calls_are_read_back_under_every_template(template: str) -> None:
    assert reads_own_calls(preparer(template))
    for kind, example in examples(template).items():
        if example.tree is None or example.conversation is None:
            continue
        schemas = SCHEMAS if example.conversation.tools else {}
        found = references(example.conversation.messages, example.turns, schemas)
        messages = [example.conversation.messages[turn.message] for turn in example.turns]
        assert [len(reference.calls) for reference in found] == [len(m.tool_calls) for m in messages], kind
        assert all(reference.readable and reference.decidable for reference in found), kind
        assert [bool(reference.thinking) for reference in found] == [
            bool(m.reasoning) or "<think>\nTwo" in m.content for m in messages
        ], kind


@settings(deadline=None)
@given(arguments=ARGUMENTS, text=WORDS)
@pytest.mark.parametrize("agent_format", AGENT_FORMATS)
def test_any_arguments_are_read_back_from_every_agent_format(
    agent_format: str, arguments: dict[str, Any], text: str
) -> None:
    text = " ".join(text.split())
    message = Message("assistant", text, tool_calls=(ToolCall("look_up", arguments), ToolCall("end", {})))
    written = fold(Conversation((Message("user", "?"), message), (WEATHER,)), agent_format).messages[-1]
    calls = read_response(written.content).calls
    assert [call.fault for call in calls] == ["", ""]
    assert same_calls(calls, [Call("look_up", arguments), Call("end", {})])
    assert all(call.react == (agent_format != "hermes") for call in calls)


CUT = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>',
    "functions": "<tool_call>\n<function=f>\n<parameter=a>\nb\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>b</arg_value>\n</tool_call>",
    "gemma": '<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|>',
    "lfm": "<|tool_call_start|>[f(a='b')]<|tool_call_end|>",
    "invoke": '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">b</parameter>\n</invoke>\n'
    "</minimax:tool_call>",
    "mistral": '[TOOL_CALLS][{"name": "f", "arguments": {"a": "b"}}]',
    "mistral, newer": '[TOOL_CALLS]f[ARGS]{"a": "b"}',
    "python tag": '<|python_tag|>{"name": "f", "parameters": {"a": "b"}}',
    "built-in": '<|python_tag|>f.call(a="b")',
    "bare": '{"name": "f", "parameters": {"a": "b"}}',
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    '{"a": "b"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek, newer": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "b"}<｜tool▁call▁end｜>'
    "<｜tool▁calls▁end｜>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
    '{"a": "b"}<|tool_call_end|><|tool_calls_section_end|>',
    "cohere": '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": "b"}}]<|END_ACTION|>',
    "gpt-oss": ' to=functions.f<|channel|>commentary json<|message|>{"a": "b"}',
    "seed": "<seed:tool_call>\n<function=f>\n<parameter=a>b</parameter>\n</function>\n</seed:tool_call>",
}


@pytest.mark.parametrize("form", CUT)
def test_a_call_that_is_cut_short_is_never_a_sound_one_of_the_same_kind(form: str) -> None:
    whole = CUT[form]
    assert read_response(whole, schemas={}).calls == (Call("f", {"a": "b"}),)
    for end in range(len(whole.rstrip("]>})\n"))):
        calls = read_response(whole[:end]).calls
        assert not any(call.arguments == {"a": "b"} and not call.fault for call in calls), whole[:end]


@settings(deadline=None)
@given(block=st.text() | st.sampled_from(sorted(CUT)).flatmap(lambda form: st.text().map(lambda t: CUT[form][:-9] + t)))
def test_no_text_breaks_the_reader(block: str) -> None:
    assert isinstance(read_block(block, {}), list)
    for opening in ("<tool_call>", "<|tool_call>", "<|python_tag|>", "<|tool_call_start|>", "[TOOL_CALLS]"):
        calls = read_block(opening + block, {})
        assert calls
        assert all(call.fault or isinstance(call.arguments, dict) for call in calls)


@settings(deadline=None)
@given(a=VALUES, b=VALUES)
def test_equality_of_json_values_is_that_of_their_canonical_text(a: Any, b: Any) -> None:
    def canonical(value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, list):
            return "[" + ",".join(map(canonical, value)) + "]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{json.dumps(k)}:{canonical(value[k])}" for k in sorted(value)) + "}"
        return json.dumps(value)

    assert equal(a, b) == (canonical(a) == canonical(b))
    assert equal(a, json.loads(json.dumps(a)))


@pytest.mark.parametrize(("a", "b"), [(1, True), (0, False), (1, "1"), ([1, 2], [2, 1]), ({"a": None}, {}), (None, 0)])
def test_values_of_other_kinds_are_not_equal(a: Any, b: Any) -> None:
    assert not equal(a, b)
    assert not equal(b, a)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "true", "true"),
        ("string", "3", "3"),
        ("integer", "3", 3),
        ("boolean", "True", True),
        (["string", "null"], "null", None),
        (["string", "null"], "3", "3"),
        ("array", "[1, 2]", [1, 2]),
        ("number", "many", "many"),
    ],
)
def test_an_argument_without_quotes_is_what_its_schema_declares(kind: Any, text: str, value: Any) -> None:
    schemas = {"f": {"type": "object", "properties": {"a": {"type": kind}}}}
    written = f"<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>"
    assert equal(read_response(written, schemas=schemas).calls[0].arguments, {"a": value})


def test_react_steps_are_read_with_their_inputs() -> None:
    text = "Thought: I look.\nAction: search\nAction Input: Paris, France\nObservation: no"
    assert read_response(text).calls == (Call("search", "Paris, France", react=True),)
    assert read_response("Action: search[Paris]").calls == (Call("search", "Paris", react=True),)
    assert read_response("**Action:** f\n**Action Input:** {}").calls == (Call("f", {}, react=True),)
    assert read_response("Thought: done.\nFinal Answer: Action films").calls == ()
    assert [bool(call.fault) for call in read_response("Action: f").calls] == [True]
    assert [bool(call.fault) for call in read_response('Action: f\nAction Input: {"a": 1').calls] == [True]


@pytest.mark.parametrize(
    ("prompt", "response", "thinks"),
    [
        ("user\n<|im_start|>assistant\n<think>\n", "I see.\n</think>\nYes", True),
        ("user\n<|im_start|>assistant\n<think>\n", "I see and never", True),
        ("user\n<|im_start|>assistant\n<think>\n", "\n</think>\n\nYes", False),
        ("user\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "Yes", False),
        ("user\n<|im_start|>assistant\n", "<think>\n\n</think>\n\nYes", False),
        ("user\n<|im_start|>assistant\n", "<think>Hm</think>Yes", True),
        ("user\n<|im_start|>assistant\n", "Thought: hm\nFinal Answer: yes", True),
        ("user\n<|im_start|>assistant\n", "Thought:\nFinal Answer: yes", False),
        ("user <think>\n<|im_start|>assistant\n", "Yes", False),
    ],
)
def test_thinking_counts_where_it_says_something(prompt: str, response: str, thinks: bool) -> None:
    assert bool(read_response(response, prompt).thinking) == thinks


def test_a_call_inside_thinking_is_no_call() -> None:
    prompt = "<|im_start|>assistant\n<think>\n"
    assert opened_by(prompt) == "<think>"
    assert read_response(CUT["hermes"], prompt).calls == ()
    assert read_response("\n</think>\n" + CUT["hermes"], prompt).calls == (Call("f", {"a": "b"}),)


def test_an_unknown_format_is_said_and_not_judged() -> None:
    conversation = KINDS["tool call"]
    example = examples("qwen3")["tool call"]
    turns = [replace(turn, response=turn.response.replace("tool_call>", "gizmo>")) for turn in example.turns]
    found = references(conversation.messages, turns, SCHEMAS)
    assert [(reference.readable, reference.decidable) for reference in found] == [(False, False)] * 2
