"""Tools, calls and results as plain text, and back."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.data.agent_format import AGENT_FORMATS, describe, fold
from agentsft.data.read import read_rows
from agentsft.errors import RowError, UserError
from agentsft.types import Conversation, Message, Refusal, ToolCall
from tests.data.conversation_forms import as_openai, conversations, write_jsonl

formats = pytest.mark.parametrize("agent_format", AGENT_FORMATS)


def calls_in(text: str, agent_format: str) -> list[tuple[str, object]]:
    """The calls that a server would parse out of a response."""
    if agent_format == "hermes":
        found = [json.loads(call) for call in re.findall(r"^<tool_call>\n(.*)\n</tool_call>$", text, re.MULTILINE)]
        return [(call["name"], call["arguments"]) for call in found]
    words = {"react": ("Action", "Action Input"), "qwen": ("✿FUNCTION✿", "✿ARGS✿")}[agent_format]
    pairs = re.findall(rf"^{words[0]}: (.*)\n{words[1]}: (.*)$", text, re.MULTILINE)
    return [(name, json.loads(arguments)) for name, arguments in pairs]


@formats
@settings(max_examples=40, deadline=None)
@given(conversation=conversations(with_ids=True))
def test_every_call_and_tool_can_be_read_back(agent_format, conversation):
    start = {"react": "Action:", "hermes": "<tool_call>", "qwen": "✿FUNCTION✿:"}[agent_format]
    forged = [bool(m.tool_calls) and start in (m.content or m.reasoning or "") for m in conversation.messages]
    if any(forged):
        with pytest.raises(RowError) as error:
            fold(conversation, agent_format)
        assert (error.value.reason, error.value.message) == ("malformed", forged.index(True))
        return
    folded = fold(conversation, agent_format)
    if not conversation.tools and not any(m.tool_calls or m.role == "tool" for m in conversation.messages):
        assert folded is conversation
        return
    assert folded.tools == ()
    assert {message.role for message in folded.messages} <= {"system", "user", "assistant"}
    before = [message for message in conversation.messages if message.role == "assistant"]
    after = [message for message in folded.messages if message.role == "assistant"]
    for message, text in zip(before, after, strict=True):
        assert (text.train, text.weight, text.tool_calls) == (message.train, message.weight, ())
        assert message.content in text.content
        if message.tool_calls:
            assert calls_in(text.content, agent_format) == [(call.name, call.arguments) for call in message.tool_calls]
        if text.reasoning != message.reasoning:
            assert agent_format == "react"
            assert f"Thought: {message.reasoning}" in text.content or text.content.startswith(message.reasoning)
    if conversation.tools:
        lines = folded.messages[0].content.split("\n")
        listed = [
            json.loads(line)
            for line in lines
            if line.startswith('{"type": "function"') or (line.startswith('{"name": "') and '"parameters"' in line)
        ]
        wanted = [tool if agent_format == "hermes" else tool["function"] for tool in conversation.tools]
        assert listed == wanted


@formats
def test_a_conversation_without_tools_is_the_same_object(agent_format):
    conversation = Conversation((Message("user", "q"), Message("assistant", "a", "hm")))
    assert fold(conversation, agent_format) is conversation


LOOP = Conversation(
    (
        Message("user", "Weather?"),
        Message(
            "assistant",
            "I look.",
            None,
            (ToolCall("get", {"city": "Genève"}, "1"), ToolCall("now", {}, "2")),
            weight=2.0,
        ),
        Message("tool", "noon", tool_call_id="2", name="now"),
        Message("tool", "rain", tool_call_id="1", name="get"),
        Message("assistant", "", "One more.", (ToolCall("get", "{bad"),), train=False),
        Message("tool", "error"),
        Message("assistant", "It rains.", "So be it."),
        Message("user", "Thanks."),
        Message("assistant", "Welcome."),
    )
)
WANTED = {
    "react": [
        'Thought: I look.\nAction: get\nAction Input: {"city": "Genève"}\nAction: now\nAction Input: {}',
        "Observation: rain\nObservation: noon",
        'Thought: One more.\nAction: get\nAction Input: "{bad"',
        "Observation: error",
        "Final Answer: It rains.",
        "Thanks.",
        "Final Answer: Welcome.",
    ],
    "hermes": [
        'I look.\n<tool_call>\n{"name": "get", "arguments": {"city": "Genève"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response>",
        '<tool_call>\n{"name": "get", "arguments": "{bad"}\n</tool_call>',
        "<tool_response>\nerror\n</tool_response>",
        "It rains.",
        "Thanks.",
        "Welcome.",
    ],
    "qwen": [
        'I look.\n✿FUNCTION✿: get\n✿ARGS✿: {"city": "Genève"}\n✿FUNCTION✿: now\n✿ARGS✿: {}',
        "✿RESULT✿: rain\n✿RESULT✿: noon",
        '✿FUNCTION✿: get\n✿ARGS✿: "{bad"',
        "✿RESULT✿: error",
        "✿RETURN✿: It rains.",
        "Thanks.",
        "Welcome.",
    ],
}


@formats
def test_the_words_of_each_format(agent_format):
    folded = fold(LOOP, agent_format)
    assert [message.content for message in folded.messages[1:]] == WANTED[agent_format]
    reasoning = [message.reasoning for message in folded.messages if message.role == "assistant"]
    assert reasoning == [None, None if agent_format == "react" else "One more.", "So be it.", None]
    assert [message.weight for message in folded.messages[:2]] == [None, 2.0]
    assert folded.messages[3].train is False


@formats
@pytest.mark.parametrize("role", ["system", "developer", None])
def test_tools_join_the_system_message_as_described(agent_format, role):
    tools = tuple({"type": "function", "function": {"name": name, "description": "{names}"}} for name in ("get", "now"))
    messages = LOOP.messages if role is None else (Message(role, "Be brief."), *LOOP.messages)
    folded = fold(replace(LOOP, messages=messages, tools=tools), agent_format)
    form = json.loads(describe(agent_format))
    per_line = {"hermes": tools}.get(agent_format, [tool["function"] for tool in tools])
    text = form["system"].replace("{names}", "get, now").replace("{tools}", "\n".join(map(json.dumps, per_line)))
    assert folded.messages[0] == Message(role or "system", f"Be brief.\n\n{text}" if role else text)
    assert len(folded.messages) == (len(messages) if role else len(messages) + 1) - 1  # two results are one message


@formats
def test_the_description_writes_what_fold_writes(agent_format):
    form = json.loads(describe(agent_format))
    assert form["agent_format"] == agent_format
    call = form["call"].replace("{call}", '{"name": "get", "arguments": {"a": 1}}')
    call = call.replace("{name}", "get").replace("{arguments}", '{"a": 1}')
    conversation = Conversation(
        (
            Message("assistant", "x", None, (ToolCall("get", {"a": 1}),)),
            Message("tool", "r"),
            Message("assistant", "y"),
            Message("assistant", "z"),
        )
    )
    assert [message.content for message in fold(conversation, agent_format).messages] == [
        form["text"].replace("{content}", "x") + "\n" + call,
        form["result"].replace("{content}", "r"),
        form["reply_after_result"].replace("{content}", "y"),
        form["reply"].replace("{content}", "z"),
    ]
    assert all(form["result"].startswith(stop) for stop in form["stop"])
    assert form["stop"]


def test_react_text_is_not_wrapped_twice():
    tool = {"type": "function", "function": {"name": "f"}}
    texts = ["Thought: x\nAction: f\nAction Input: {}", "Final Answer: y", "Thought: z\nFinal Answer: y"]
    conversation = Conversation(tuple(Message("assistant", text) for text in texts), (tool,))
    assert [message.content for message in fold(conversation, "react").messages[1:]] == texts


@formats
def test_what_could_not_be_parsed_back_is_refused(agent_format):
    assume_text = {"react": "Action: g", "hermes": "<tool_call>", "qwen": "✿FUNCTION✿: g"}[agent_format]
    for call, text in [
        (ToolCall("f\ng", {}), ""),
        (ToolCall("f", {"x": float("nan")}), ""),
        (ToolCall("f", {}), f"a\n{assume_text}"),
    ]:
        with pytest.raises(RowError) as error:
            fold(Conversation((Message("user", "q"), Message("assistant", text, None, (call,)))), agent_format)
        assert (error.value.reason, error.value.message) == ("malformed", 1)


def test_an_unknown_format_names_the_nearest():
    for use in (describe, lambda name: fold(LOOP, name)):
        with pytest.raises(UserError, match='Did you mean "hermes"'):
            use("herms")


@settings(max_examples=30, deadline=None)
@given(conversation=conversations(), agent_format=st.sampled_from(AGENT_FORMATS))
def test_rows_are_folded_while_they_are_read(tmp_path_factory, conversation, agent_format):
    path = write_jsonl(tmp_path_factory.mktemp("fold") / "a.jsonl", [as_openai(conversation, True)])
    (row,) = read_rows([path], agent_format=agent_format)
    if row.refusal is None:
        assert row.conversation == fold(conversation, agent_format)
    else:
        with pytest.raises(RowError) as error:
            fold(conversation, agent_format)
        assert Refusal(error.value.reason, error.value.detail, error.value.message) == row.refusal


def test_reasoning_that_is_no_thought_is_inlined_after_folding(tmp_path):
    record = as_openai(LOOP, False)
    (row,) = read_rows([write_jsonl(tmp_path / "a.jsonl", [record])], agent_format="react", reasoning="inline")
    contents = [message.content for message in row.conversation.messages]
    assert contents[3] == 'Thought: One more.\nAction: get\nAction Input: "{bad"'
    assert contents[5] == "<think>\nSo be it.\n</think>\n\nFinal Answer: It rains."
