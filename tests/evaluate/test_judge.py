"""Verdicts: the row's own response passes all of them, and each fault fails just the verdicts that name it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentsft.encode.prepare import Preparer
from agentsft.evaluate.judge import METRICS, Reference, judge, references
from agentsft.evaluate.settings import EvalConfig
from agentsft.evaluate.take import take_turns
from agentsft.types import Message, ToolCall, Turn
from tests.cells import examples
from tests.conversations import WEATHER
from tests.families import TEXT_TEMPLATES

SCHEMAS = {"get_weather": WEATHER["function"]["parameters"], "stop": {"type": "object"}}


def tagged(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def reference(response: str, *calls: ToolCall, schemas: dict[str, Any] = SCHEMAS) -> Reference:
    turn = Turn(1, "<|im_start|>assistant\n", response, "<|im_end|>", (), 1.0)
    return references([Message("user", "?"), Message("assistant", tool_calls=calls)], [turn], schemas)[0]


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
def test_the_rows_own_response_passes_every_verdict(template: str) -> None:
    for example in examples(template).values():
        if example.tree is None or example.conversation is None:
            continue
        schemas = SCHEMAS if example.conversation.tools else {}
        judged_by = references(example.conversation.messages, example.turns, schemas)
        for turn, one in zip(example.turns, judged_by, strict=True):
            verdicts = judge(one, turn.response, True)
            called = bool(example.conversation.messages[turn.message].tool_calls)
            assert all(verdicts.values())
            assert {"valid_call", "right_tool", "valid_arguments", "exact_call"} <= set(verdicts) or not called
            assert ("decision" in verdicts) == bool(example.conversation.tools)


CALL = reference(tagged("get_weather", '{"city": "Bonn"}'), ToolCall("get_weather", {"city": "Bonn"}))
FAULTS = {
    "another order and space of JSON": ("Sure.\n" + tagged("get_weather", '{ "city" : "Bonn" }'), set()),
    "another city": (tagged("get_weather", '{"city": "Rome"}'), {"exact_call"}),
    "an argument more": (tagged("get_weather", '{"city": "Bonn", "unit": "celsius"}'), {"exact_call"}),
    "against the schema": (
        tagged("get_weather", '{"city": "Bonn", "unit": "kelvin"}'),
        {"exact_call", "valid_arguments"},
    ),
    "a required argument missing": (tagged("get_weather", "{}"), {"exact_call", "valid_arguments"}),
    "another declared tool": (tagged("stop", '{"city": "Bonn"}'), {"right_tool", "exact_call"}),
    "no declared tool": (tagged("weather", '{"city": "Bonn"}'), {"right_tool", "exact_call", "valid_arguments"}),
    "the call twice": (tagged("get_weather", '{"city": "Bonn"}') * 2, {"right_tool", "exact_call"}),
    "arguments as text": (
        tagged("get_weather", '"{}"'),
        {"valid_call", "valid_arguments", "exact_call"},
    ),
    "broken JSON": (
        tagged("get_weather", '{"city": "Bonn"'),
        {"valid_call", "right_tool", "valid_arguments", "exact_call"},
    ),
    "an answer": (
        "It is sunny.",
        {"decision", "valid_call", "right_tool", "valid_arguments", "exact_call"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_verdicts_that_name_it_and_no_other(fault: str) -> None:
    response, failed = FAULTS[fault]
    verdicts = judge(CALL, response, True)
    assert set(verdicts) == {"decision", "valid_call", "right_tool", "valid_arguments", "exact_call", "stops"}
    assert {name for name, good in verdicts.items() if not good} == failed


REACT = reference('Thought: I look.\nAction: find\nAction Input: {"q": "a", "n": 1}', schemas={"find": None})
REACT_FAULTS = {
    "the same": ('Thought: Well.\nAction: find\nAction Input: {"n": 1.0, "q": "a"}', set()),
    "another input": ('Thought: Well.\nAction: find\nAction Input: {"n": 2, "q": "a"}', {"react_input"}),
    "another action": (
        'Thought: Well.\nAction: seek\nAction Input: {"q": "a", "n": 1}',
        {"react_action", "react_input"},
    ),
    "broken input": ('Thought: Well.\nAction: find\nAction Input: {"q": "a"', {"valid_call", "react_input"}),
    "no input": ("Thought: Well.\nAction: find", {"valid_call", "react_input"}),
    "no thought": ('Action: find\nAction Input: {"q": "a", "n": 1}', {"thinks"}),
    "an invented observation, and on": (
        'Thought: I\nAction: find\nAction Input: {"q": "a", "n": 1}\nObservation: 3\nAction: find\nAction Input: {}',
        {"react_action", "react_input"},
    ),
    "an answer": ("Thought: Well.\nFinal Answer: 3", {"decision", "valid_call", "react_action", "react_input"}),
}


@pytest.mark.parametrize("fault", REACT_FAULTS)
def test_a_faulty_react_step_fails_the_verdicts_that_name_it(fault: str) -> None:
    response, failed = REACT_FAULTS[fault]
    verdicts = judge(REACT, response, True)
    assert set(verdicts) == {"decision", "valid_call", "react_action", "react_input", "thinks", "stops"}
    assert {name for name, good in verdicts.items() if not good} == failed


def test_a_call_where_the_row_answers_is_the_wrong_decision() -> None:
    answer = reference("It is sunny.")
    assert judge(answer, "Sunny.", True) == {"decision": True, "stops": True}
    assert judge(answer, tagged("get_weather", "{"), False) == {"decision": False, "stops": False}


def test_without_tools_and_calls_there_is_nothing_to_decide() -> None:
    assert judge(reference("Hello!", schemas={}), "Hi!", True) == {"stops": True}


def test_parallel_calls_have_no_order() -> None:
    bonn, rome = (tagged("get_weather", f'{{"city": "{city}"}}') for city in ("Bonn", "Rome"))
    both = reference(
        f"{bonn}\n{rome}", ToolCall("get_weather", {"city": "Bonn"}), ToolCall("get_weather", '{"city": "Rome"}')
    )
    assert judge(both, f"{rome}\n{bonn}", True)["exact_call"]
    assert not judge(both, f"{rome}\n{rome}", True)["exact_call"]
    assert judge(both, f"{rome}\n{rome}", True)["right_tool"]


def test_a_row_whose_own_call_is_broken_judges_no_call() -> None:
    broken = reference('Action: find\nAction Input: {"q": ', schemas={})
    assert set(judge(broken, "Action: find\nAction Input: {}", True)) == {"decision", "stops"}


def test_a_call_that_reads_otherwise_than_the_row_has_it_is_not_judged() -> None:
    altered = reference(tagged("get_weather", '{"city": "Bonn"}'), ToolCall("get_weather", {"city": "Rome"}))
    assert set(judge(altered, tagged("get_weather", '{"city": "Bonn"}'), True)) == {"decision", "stops"}


def test_a_row_that_thinks_in_two_ways_wants_both() -> None:
    both = reference("<think>Hm.</think>\nThought: I know.\nFinal Answer: 3", schemas={})
    assert judge(both, "<think>So.</think>\nThought: Yes.\nFinal Answer: 4", True)["thinks"]
    assert not judge(both, "Thought: Yes.\nFinal Answer: 4", True)["thinks"]
    assert not judge(both, "<think>So.</think>\nFinal Answer: 4", True)["thinks"]


def test_a_schema_that_is_none_judges_no_arguments() -> None:
    odd = {"get_weather": {"type": "dict"}}
    one = reference(CALL.calls and tagged("get_weather", "{}"), ToolCall("get_weather", {}), schemas=odd)
    assert "valid_arguments" not in judge(one, tagged("get_weather", "{}"), True)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["toolbench_react.jsonl", "tau_airline_openai.jsonl", "glaive_sharegpt_en.json"])
def test_real_responses_pass_their_own_verdicts(name: str, shared: Path, qwen_tokenizer: Any) -> None:
    config = EvalConfig(model="qwen", data=[str(shared / "data" / name)], limit=40)
    turns = take_turns(config, Preparer(qwen_tokenizer)).turns
    verdicts = [judge(turn.reference, turn.response, True) for turn in turns]
    assert all(all(one.values()) for one in verdicts)
    assert sum("valid_call" in one for one in verdicts) > 20
    assert sum(not turn.reference.readable for turn in turns) < 0.05 * len(turns)


def test_the_page_names_every_metric_and_only_flags_that_exist() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "eval.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in page] == []
    known = {"--" + field.name.replace("_", "-") for field in fields(EvalConfig)} | {"--no-generate", "--format"}
    before_strategies = page.partition("## Comparing strategies")[0]
    used = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", before_strategies))
    assert used
    assert used <= known


def test_every_verdict_is_a_metric() -> None:
    found = {name for one in (CALL, REACT) for name in judge(one, "", False)}
    assert found == set(METRICS)
