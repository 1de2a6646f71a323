"""Each rule says what is odd about a row, where, and stays silent about rows that are in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.lint.finding import KINDS, Finding, excerpt
from agentsft.lint.linter import Linter
from agentsft.types import Conversation, Message, ToolCall
from agentsft.weigh.loss_scale import parse_loss_scale
from tests.conversations import KINDS as CONVERSATIONS
from tests.conversations import WEATHER, answer, call, result, system, user

REACT_PROMPT = "Answer the questions.\nAction: the action to take, should be one of [search, lookup]\nBegin!"


def findings(*messages: Message, tools: tuple[dict[str, Any], ...] = (), loss_scale: str = "react") -> list[Finding]:
    return Linter(parse_loss_scale(loss_scale)).row(Conversation(messages, tools))


def kinds(*messages: Message, **settings: Any) -> list[tuple[str, int | None]]:
    return [(finding.kind, finding.message) for finding in findings(*messages, **settings)]


def calling(name: str, arguments: dict[str, Any] | str, id: str | None = None) -> Message:
    return Message("assistant", tool_calls=(ToolCall(name, arguments, id),))


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("loss_scale", ["default", "react", "hermes", "qwen", "ignore_empty_think"])
def test_conversations_in_order_give_no_finding(name: str, loss_scale: str) -> None:
    assert Linter(parse_loss_scale(loss_scale)).row(CONVERSATIONS[name]) == []


FAULTS: dict[str, tuple[str, int | None, str, list[Message], tuple[dict[str, Any], ...]]] = {
    "a structured call of another tool": (
        "undeclared_tool",
        1,
        "get_weather",
        [user("Rain?"), calling("get_wether", {"city": "Bonn"})],
        (WEATHER,),
    ),
    "a structured call without tools": ("undeclared_tool", 1, "no tools", [user("?"), calling("f", {})], ()),
    "an action out of the prompt's list": (
        "undeclared_tool",
        2,
        "search, lookup",
        [system(REACT_PROMPT), user("Who?"), answer("Thought: hm\nAction: serch\nAction Input: x")],
        (),
    ),
    "an action in brackets out of the list": (
        "undeclared_tool",
        2,
        "'find'",
        [system(REACT_PROMPT), user("Who?"), answer("Thought: hm\nAction: find[x]")],
        (),
    ),
    "a Hermes call in text of another tool": (
        "undeclared_tool",
        1,
        "'f'",
        [user("Rain?"), answer('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')],
        (WEATHER,),
    ),
    "a missing argument": (
        "invalid_arguments",
        1,
        "'city' is a required property",
        [user("Rain?"), calling("get_weather", {"unit": "celsius"})],
        (WEATHER,),
    ),
    "an argument of another kind, deep in a text": (
        "invalid_arguments",
        1,
        "unit: 'kelvin'",
        [user("Rain?"), answer('Action: get_weather\nAction Input: {"city": "Bonn", "unit": "kelvin"}')],
        (WEATHER,),
    ),
    "arguments that are no JSON": (
        "invalid_arguments",
        1,
        "no JSON (expecting property name",
        [user("Rain?"), calling("get_weather", "{'city': 'Bonn'}")],
        (WEATHER,),
    ),
    "an action input that begins like JSON": (
        "invalid_arguments",
        1,
        "extra data at character 18",
        [user("Rain?"), answer('Action: get_weather\nAction Input: {"city": "Bonn"} or so')],
        (WEATHER,),
    ),
    "text where several arguments are due": (
        "invalid_arguments",
        1,
        "city, unit",
        [user("Rain?"), answer("Action: get_weather\nAction Input: Bonn")],
        (WEATHER,),
    ),
    "a structured call without result": (
        "call_without_result",
        1,
        "message 2 follows",
        [user("Rain?"), call("Bonn"), user("Well?"), answer("No idea.")],
        (WEATHER,),
    ),
    "one of two calls without result": (
        "call_without_result",
        1,
        "message 3 follows",
        [user("Rain?"), call("Bonn", "Rome"), result("dry", 1), answer("Dry.")],
        (WEATHER,),
    ),
    "a call in text without result": (
        "call_without_result",
        1,
        "message 2 follows",
        [user("Who?"), answer("Action: search[x]"), answer("Final Answer: him")],
        (),
    ),
    "a result without call": (
        "result_without_call",
        2,
        "no open call",
        [user("Rain?"), answer("Let me see."), result("dry"), answer("Dry.")],
        (),
    ),
    "an observation without action": (
        "result_without_call",
        2,
        "no call before",
        [user("Who?"), answer("Thought: hm"), user("Observation: he"), answer("Final Answer: he")],
        (),
    ),
    "a result with another id": (
        "mismatched_result",
        2,
        "call00007",
        [user("Rain?"), call("Bonn"), result("dry", 7), answer("Dry.")],
        (WEATHER,),
    ),
    "a result with another name": (
        "mismatched_result",
        2,
        "'get_time'",
        [user("Rain?"), call("Bonn"), replace(result("dry"), name="get_time"), answer("Dry.")],
        (WEATHER,),
    ),
    "two calls with one id": (
        "mismatched_result",
        1,
        "2 calls",
        [user("?"), Message("assistant", tool_calls=(ToolCall("get_weather", {"city": "Bonn"}, "a"),) * 2)],
        (WEATHER,),
    ),
    "an unclosed think block": ("think_tags", 1, "never closed", [user("?"), answer("<think>\nhm\nIt is 4.")], ()),
    "a think block opened twice": (
        "think_tags",
        1,
        "open already",
        [user("?"), answer("<think><think>hm</think>\n4")],
        (),
    ),
    "two think blocks in a row": (
        "think_tags",
        1,
        "right behind",
        [user("?"), answer("<think>\n</think>\n\n<think>hm</think>\n4")],
        (),
    ),
    "a think block closed twice": ("think_tags", 1, "not open", [user("?"), answer("<think>a</think>b</think>c")], ()),
    "reasoning beside a think block": (
        "think_tags",
        1,
        "reasoning as well",
        [user("?"), answer("<think>a</think>b", "a")],
        (),
    ),
    "tags inside the reasoning": ("think_tags", 1, "inside the reasoning", [user("?"), answer("b", "<think>a")], ()),
    "a keyword in structured arguments": (
        "misplaced_keyword",
        1,
        "'Observation:' inside arguments",
        [user("Rain?"), calling("get_weather", {"city": "Bonn (Observation: dry)"})],
        (WEATHER,),
    ),
    "a keyword in an action input": (
        "misplaced_keyword",
        1,
        "'Thought:' inside arguments",
        [user("?"), answer('Action: note\nAction Input: {"text": "Thought: dry"}')],
        (),
    ),
    "a keyword in an observation": (
        "misplaced_keyword",
        1,
        "'Action:' inside an observation",
        [user("?"), answer("Action: search[x]\nObservation: the film Action: two\nFinal Answer: y")],
        (),
    ),
    "a keyword in the thinking": (
        "misplaced_keyword",
        1,
        "'Action:' inside thinking",
        [user("?"), answer("<think>\nI could say Action: x\n</think>\n\n4")],
        (),
    ),
    "a keyword in the reasoning": (
        "misplaced_keyword",
        1,
        "'Action:' inside thinking",
        [user("?"), answer("4", "I could say Action: x")],
        (),
    ),
    "a keyword in brackets": (
        "misplaced_keyword",
        1,
        "'Observation:' inside arguments",
        [user("?"), answer("Thought: so\nAction: search[what is Observation: x]")],
        (),
    ),
    "an answer that repeats its observation": (
        "echoed_observation",
        3,
        "message 2",
        [user("?"), answer("Action: f[x]"), user("Observation: " + "dry and warm " * 3), answer("dry and warm " * 3)],
        (),
    ),
    "nothing": ("empty_response", 1, "empty", [user("?"), answer(" \n")], ()),
    "thinking alone": ("empty_response", 1, "no answer after it", [user("?"), answer("", "hm")], ()),
    "a final answer of nothing": ("empty_response", 1, "nothing follows", [user("?"), answer("Final Answer: ")], ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_once_with_its_place_and_cause(name: str) -> None:
    kind, message, words, messages, tools = FAULTS[name]
    (finding,) = findings(*messages, tools=tools)
    assert (finding.kind, finding.message) == (kind, message)
    assert words in finding.detail
    assert "\n" not in finding.detail + finding.excerpt
    assert len(finding.excerpt) <= 72


def test_every_kind_but_those_of_schemas_and_duplicates_has_a_case_here() -> None:
    others = {"broken_schema", "trained_observation", "duplicate_text", "duplicate_id", "contradictory_duplicate"}
    assert {fault[0] for fault in FAULTS.values()} == KINDS.keys() - others


ORDERLY: dict[str, list[Message]] = {
    "the last call has no result yet": [user("Rain?"), call("Bonn")],
    "any text may be the result of a call in text": [
        user("Who?"), answer("Action: search[x]"), user("he"), answer("Final Answer: he"),
    ],
    "one list of results answers parallel calls": [
        user("Rain?"), call("Bonn", "Rome"), Message("tool", '["dry", "wet"]'), answer("Dry and wet."),
    ],
    "results with ids go in any order": [
        user("?"), call("Bonn", "Rome"), result("wet", 1), result("dry", 0), answer("Dry and wet."),
    ],
    "a user's observation answers a structured call": [
        user("?"), call("Bonn"), user("Observation: dry"), answer("Dry."),
    ],
    "a call in text may have several tool messages": [
        user("?"), answer("Action: f[x]"), Message("tool", "a"), Message("tool", "b"), answer("Final Answer: c"),
    ],
    "a call that was answered inside its response": [
        user("?"), answer("Action: f[x]\nObservation: y"), answer("Final Answer: z"),
    ],
    "results without ids go in order": [
        user("?"), call("Bonn", "Rome"), Message("tool", "dry"), Message("tool", "wet"), answer("Dry and wet."),
    ],
    "the prompt opened the think block": [user("?"), answer("hm</think>\n\n4")],
    "thinking between calls": [user("?"), answer("<think>a</think>Let me see.<think>b</think>4")],
    "a tag that is only mentioned": [user("?"), answer("Write `<think>` first.")],
    "a short answer may be its observation": [
        user("2+2?"), answer("Action: add[2, 2]"), user("Observation: 4"), answer("4"),
    ],
    "keywords where steps begin": [
        user("?"), answer("Thought: a\nAction: f\nAction Input: x\nObservation: y\n**Thought:** b\nFinal Answer: c"),
    ],
    "a keyword that changes no weight": [user("?"), answer('Action: f\nAction Input: {"x": "Action: g"}')],
    "one parameter may be given as text": [user("?"), answer("Action: one\nAction Input: Bonn")],
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERLY)
def test_what_only_looks_odd_is_not_warned_of(name: str) -> None:
    one = {"type": "function", "function": {"name": "one", "parameters": {"properties": {"city": {"type": "string"}}}}}
    others = tuple({"type": "function", "function": {"name": other}} for other in ("f", "search", "add"))
    assert kinds(*ORDERLY[name], tools=(WEATHER, one, *others)) == []


def test_rules_of_responses_and_weights_leave_untrained_messages_alone() -> None:
    messages = [user("?"), answer(""), user("?"), answer("")]
    assert kinds(*messages) == [("empty_response", 1), ("empty_response", 3)]
    assert kinds(*messages, loss_scale="last_round+react") == [("empty_response", 3)]
    assert kinds(user("?"), replace(answer(""), train=False)) == []


def test_keywords_are_those_of_the_chosen_strategy() -> None:
    messages = [user("?"), answer('<tool_call>\n{"name": "f", "arguments": {"x": "✿ARGS✿: Name: a"}}\n</tool_call>')]
    assert kinds(*messages, loss_scale="react") == []
    assert kinds(*messages, loss_scale="qwen") == kinds(*messages, loss_scale="agentflan") == [("misplaced_keyword", 1)]
    assert kinds(user("?"), calling("get_weather", {"city": "<think></think>"}), tools=(WEATHER,)) == []
    empty = [user("?"), calling("get_weather", {"city": "<think></think>"})]
    assert kinds(*empty, tools=(WEATHER,), loss_scale="ignore_empty_think") == [("misplaced_keyword", 1)]
    assert kinds(*empty, tools=(WEATHER,), loss_scale="ignore_think_prefix") == []
    forged = calling("get_weather", {"city": "</tool_call>"})
    assert kinds(user("?"), forged, tools=(WEATHER,), loss_scale="hermes") == [("misplaced_keyword", 1)]


def test_observations_in_a_response_are_warned_of_only_where_they_are_trained(tmp_path: Path) -> None:
    messages = [user("?"), answer("Action: search[x]\nObservation: he is old\nThought: so\nFinal Answer: y")]
    assert kinds(*messages, loss_scale="react") == []
    assert kinds(*messages, loss_scale="default") == [("trained_observation", 1)]
    (finding,) = findings(*messages, loss_scale="default")
    assert "--data-format react" in finding.detail
    table = tmp_path / "half.json"
    table.write_text('{"keywords": {"Observation:": [0, 0.5]}}', encoding="utf-8")
    assert kinds(*messages, loss_scale=str(table)) == [("trained_observation", 1)]
    table.write_text('{"keywords": {"Observation:": [1, 0], "Thought:": [1, 1]}}', encoding="utf-8")
    assert kinds(*messages, loss_scale=str(table)) == []


@given(st.text(), st.integers(0, 300), st.integers(1, 90))
def test_an_excerpt_is_one_short_line_of_the_text(text: str, around: int, size: int) -> None:
    shown = excerpt(text, min(around, len(text)), size)
    assert len(shown) <= size + 2
    assert len(shown.splitlines()) <= 1
    assert " ".join(text.split()) == shown or " ".join(shown.strip("…").split()) in " ".join(text.split())


PIECES = st.sampled_from(
    ["Thought: ", "Action: ", "Action Input: ", "Observation: ", "Final Answer: ", "<think>", "</think>", "<tool_call>",
     "</tool_call>", '{"name": "f", "arguments": ', '{"a": [', "}", "\n", "**", "✿FUNCTION✿: ", "✿ARGS✿: ", "f[x]", "x"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool", "system"]), TEXTS), max_size=5), TEXTS)
def test_no_conversation_makes_a_rule_fail(rows: list[tuple[str, str]], text: str) -> None:
    messages = tuple(Message(role, content) for role, content in rows)
    conversation = Conversation((*messages, Message("assistant", text)), (WEATHER,))
    for spec in ("react", "hermes", "qwen+agentflan"):
        for finding in Linter(parse_loss_scale(spec)).row(conversation):
            assert finding.kind in KINDS
            assert finding.message is None or finding.message <= len(messages)
