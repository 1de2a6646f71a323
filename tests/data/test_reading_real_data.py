"""Conversations that others made: every row is read, nothing is refused without cause."""

from __future__ import annotations

import json

import pytest

from agentsft.data.agent_format import AGENT_FORMATS
from agentsft.data.read import read_rows

pytestmark = pytest.mark.real_data

# rows, messages, assistant messages, tool calls, rows with tools
COUNTS = {
    "fireact_alpaca.json": (500, 1000, 500, 0, 0),
    "fireact_react.jsonl": (1344, 7544, 3100, 0, 0),
    "glaive_sharegpt_en.json": (300, 1914, 957, 211, 191),
    "glm_react_zh.jsonl": (21, 83, 31, 0, 0),
    "reason_tool_use_parts.jsonl": (50, 274, 112, 68, 48),
    "tau2_openai.jsonl": (37, 1050, 492, 262, 37),
    "tau_airline_openai.jsonl": (100, 2558, 1229, 572, 100),
    "toolbench_react.jsonl": (441, 4023, 1961, 0, 0),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_real_row_is_read(shared, name):
    rows = list(read_rows([str(shared / "data" / name)]))
    assert [row.refusal for row in rows if row.refusal] == []
    messages = [message for row in rows for message in row.conversation.messages]
    assistant = [message for message in messages if message.role == "assistant"]
    calls = [call for message in assistant for call in message.tool_calls]
    with_tools = sum(bool(row.conversation.tools) for row in rows)
    assert (len(rows), len(messages), len(assistant), len(calls), with_tools) == COUNTS[name]
    assert all(isinstance(call.arguments, dict) for call in calls)


def test_the_whole_folder_is_read_in_order(shared):
    rows = list(read_rows([str(shared / "data")]))
    assert [row.index for row in rows] == list(range(sum(count[0] for count in COUNTS.values())))
    assert len({row.source for row in rows}) == len(rows)


def test_openai_messages_keep_every_text_and_argument(shared):
    path = shared / "data" / "tau_airline_openai.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row, record in zip(read_rows([str(path)]), records, strict=True):
        assert row.conversation.id == record["id"]
        assert list(row.conversation.tools) == record["tools"]
        for message, raw in zip(row.conversation.messages, record["messages"], strict=True):
            assert (message.role, message.content) == (raw["role"], raw["content"] or "")
            assert message.tool_call_id == raw.get("tool_call_id")
            for call, raw_call in zip(message.tool_calls, raw.get("tool_calls") or [], strict=True):
                assert (call.id, call.name) == (raw_call["id"], raw_call["function"]["name"])
                assert call.arguments == json.loads(raw_call["function"]["arguments"])


def test_trajectories_in_one_response_are_split_only_on_request(shared):
    path = str(shared / "data" / "fireact_alpaca.json")
    steps = [message for row in read_rows([path], "react") for message in row.conversation.messages]
    assert len(steps) == 3270
    assert not any("\nObservation:" in message.content for message in steps if message.role == "assistant")
    whole = [message for row in read_rows([path]) for message in row.conversation.messages]
    assert sum("\nObservation:" in message.content for message in whole) == 500


@pytest.mark.parametrize("agent_format", AGENT_FORMATS)
def test_every_real_row_can_be_folded(shared, agent_format):
    rows = list(read_rows([str(shared / "data")], agent_format=agent_format))
    assert [row.refusal for row in rows if row.refusal] == []
    for row in rows:
        assert row.conversation.tools == ()
        assert not any(message.tool_calls or message.role == "tool" for message in row.conversation.messages)
