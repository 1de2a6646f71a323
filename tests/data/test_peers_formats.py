"""Data files of ms-swift, LLaMA-Factory, TRL and axolotl, in the forms that they document, read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsft.data.formats import to_conversation
from agentsft.data.read import read_rows
from agentsft.errors import RowError

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}
CALL = '{"name": "add", "arguments": {"a": 1}}'
AGENT = ["user q", "assistant add", "tool 1", "assistant a"]
CHAT = ["user q", "assistant a"]
LONG_CHAT = ["system s", "user q", "assistant a", "user r", "assistant b"]

# Each is (what a peer calls the form, one row of it, what is to be read: role and content, or the names of calls).
SWIFT = [
    (
        "messages with loss and loss_scale",
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "loss": False},
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "b", "loss_scale": 2.0},
            ]
        },
        LONG_CHAT,
    ),
    (
        "tool_call and tool_response",
        {
            "tools": json.dumps([TOOL]),
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "tool_call", "content": CALL},
                {"role": "tool_response", "content": "1"},
                {"role": "assistant", "content": "a"},
            ],
        },
        AGENT,
    ),
    (
        "parallel tool_calls",
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "tool_call", "content": CALL},
                {"role": "tool_call", "content": CALL},
                {"role": "tool_response", "content": "1"},
                {"role": "tool_response", "content": "2"},
                {"role": "assistant", "content": "a"},
            ]
        },
        ["user q", "assistant add add", "tool 1", "tool 2", "assistant a"],
    ),
    (
        "query, response, history, system",
        {"system": "s", "query": "r", "response": "b", "history": [["q", "a"]]},
        LONG_CHAT,
    ),
    (
        "ShareGPT pairs",
        {"system": "s", "conversation": [{"human": "q", "assistant": "a"}, {"human": "r", "assistant": "b"}]},
        LONG_CHAT,
    ),
    ("alpaca", {"instruction": "q", "input": "more", "output": "a"}, ["user q\nmore", "assistant a"]),
    (
        "Anthropic blocks",
        {
            "tools": [{"name": "add", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "1"}]},
                {"role": "assistant", "content": "a"},
            ],
        },
        AGENT,
    ),
    ("problem and solution", {"problem": "q", "solution": "a"}, CHAT),
    ("input and output, in that alone", {"input": "q", "output": "a"}, CHAT),
    (
        "roles with a hyphen, and rejected_response, which is for preferences",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function-call", "value": CALL},
                {"from": "function-response", "value": "1"},
                {"from": "bot", "value": "a"},
            ],
            "rejected_response": "b",
        },
        AGENT,
    ),
    ("channel beside the messages", {"channel": "c", "messages": [{"role": "user", "content": "q"},
                                                                  {"role": "assistant", "content": "a"}]}, CHAT),
]  # fmt: skip
LLAMA_FACTORY = [
    (
        "alpaca with system and history",
        {"instruction": "r", "input": "", "output": "b", "system": "s", "history": [["q", "a"]]},
        LONG_CHAT,
    ),
    (
        "sharegpt with tools",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": CALL},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
        AGENT,
    ),
    (
        "sharegpt with a list of calls",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": f"[{CALL}, {CALL}]"},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "a"},
            ]
        },
        ["user q", "assistant add add", "tool 1", "assistant a"],
    ),
    (
        "openai",
        {
            "messages": [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": json.loads(CALL)}],
                },
                {"role": "tool", "content": "1"},
                {"role": "assistant", "content": "a"},
            ],
            "tools": [TOOL],
        },
        AGENT,
    ),
]
TRL = [
    (
        "conversational language modelling with tools",
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [{"type": "function", "function": json.loads(CALL)}]},
                {"role": "tool", "name": "add", "content": "1"},
                {"role": "assistant", "content": "a"},
            ],
            "tools": [TOOL],
            "chat_template_kwargs": {"enable_thinking": False},
        },
        AGENT,
    ),
    ("prompt and completion", {"prompt": "q", "completion": "a"}, CHAT),
    (
        "conversational prompt and completion",
        {
            "prompt": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "r"},
            ],
            "completion": [{"role": "assistant", "content": "b"}],
        },
        LONG_CHAT,
    ),
]
AXOLOTL = [
    (
        "chat_template with message_field_training",
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "training": False},
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "b", "training": True},
            ]
        },
        LONG_CHAT,
    ),
    (
        "sharegpt with property mappings from and value",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        CHAT,
    ),
    (
        "chat_template with tools, arguments as text",
        {
            "tools": [TOOL],
            "messages": [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "1"},
                {"role": "assistant", "content": "a"},
            ],
        },
        AGENT,
    ),
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, CHAT),
]
FORMS = [
    pytest.param(row, expected, id=f"{peer}: {name}")
    for peer, forms in (("ms-swift", SWIFT), ("LLaMA-Factory", LLAMA_FACTORY), ("TRL", TRL), ("axolotl", AXOLOTL))
    for name, row, expected in forms
]


def read(row: dict[str, Any]) -> list[str]:
    messages = to_conversation(row).messages
    return [f"{m.role} {' '.join([m.content] * bool(m.content) + [c.name for c in m.tool_calls])}" for m in messages]


@pytest.mark.parametrize(("row", "expected"), FORMS)
def test_a_peers_row_is_read_as_it_is(row: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    assert read(row) == expected
    assert len(to_conversation(row).tools) == (1 if row.get("tools") else 0)
    for name, text in (("rows.jsonl", json.dumps(row) + "\n"), ("rows.json", json.dumps([row]))):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        (found,) = read_rows([str(path)])
        assert found.conversation == to_conversation(row)


def test_the_calls_of_all_peers_become_the_same_call() -> None:
    calls = {
        (call.name, tuple(call.arguments.items()) if isinstance(call.arguments, dict) else call.arguments)
        for form in FORMS
        for message in to_conversation(form.values[0]).messages
        for call in message.tool_calls
    }
    assert calls == {("add", (("a", 1),))}


def test_switches_and_weights_of_peers_are_kept() -> None:
    switched = to_conversation(SWIFT[0][1]).messages
    assert [(m.train, m.weight) for m in switched if m.role == "assistant"] == [(False, None), (None, 2.0)]
    switched = to_conversation(AXOLOTL[0][1]).messages
    assert [m.train for m in switched if m.role == "assistant"] == [False, True]
    context = to_conversation(TRL[2][1]).messages
    assert [m.train for m in context if m.role == "assistant"] == [False, None]
    assert to_conversation(TRL[0][1]).template_kwargs == {"enable_thinking": False}


# Forms of peers that are refused today; docs/migrate.md says what to do with each.
REFUSED = {
    "LLaMA-Factory: columns of one's own": {"ask": "q", "reply": "a"},
    "LLaMA-Factory: tags of one's own": {"dialog": [{"speaker": "user", "text": "q"}, {"speaker": "bot", "text": "a"}]},
    "LLaMA-Factory: a pair of chosen and rejected": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "TRL: text": {"text": "a text without roles"},
    "TRL: ids": {"input_ids": [1, 2], "labels": [-100, 2]},
    "TRL: prompt, chosen, rejected": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "axolotl: input_output": {"segments": [{"label": False, "text": "q"}, {"label": True, "text": "a"}]},
    "axolotl: completion": {"text": "a text without roles"},
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
def test_a_form_that_is_not_read_is_refused_and_its_fields_are_named(row: dict[str, Any]) -> None:
    with pytest.raises(RowError) as refused:
        to_conversation(row)
    assert refused.value.reason in ("unknown_format", "no_assistant")
    assert refused.value.reason == "no_assistant" or all(name in refused.value.detail for name in row)


# A row that a peer's reader would take, with one thing wrong; the error must name the place and the remedy.
HALF_RIGHT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "ms-swift: a call that is no JSON": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "tool_call", "content": "add(1)"}]},
        ["not valid JSON"],
    ),
    "ms-swift: history as Python text": (
        {"query": "q", "response": "a", "history": "[['x', 'y']]"},
        ["history", "not valid JSON"],
    ),
    "ms-swift: a switch that is text": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": "no"}]},
        ["loss", "true or false"],
    ),
    "LLaMA-Factory: a misspelt tag": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "observatoin", "value": "1"}]},
        ["observatoin", '"observation"'],
    ),
    "LLaMA-Factory: tools that are no JSON": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "tools": "add"},
        ["tools", "not valid JSON"],
    ),
    "LLaMA-Factory: a call without a name": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"arguments": {}}'}]},
        ["name", "must be"],
    ),
    "ms-swift: two answers to a problem": (
        {"problem": "q", "solution": "a long way", "answer": "a"},
        ["answer and solution", "columns: {output: answer}"],
    ),
    "TRL: an empty completion": ({"prompt": "q", "completion": ""}, ["answer is empty"]),
    "TRL: calls of a user": (
        {"messages": [{"role": "user", "content": "q", "tool_calls": [json.loads(CALL)]}]},
        ["user", "only the assistant's may"],
    ),
    "axolotl: roles that contradict": (
        {"messages": [{"role": "user", "content": "q"},
                      {"role": "assistant", "content": "a", "training": True, "train": False}]},
        ["keep one"],
    ),
    "axolotl: an entry of tools that is no function": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": [{"x": 1}]},
        ["tools", "must have the name"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("row", "words"), HALF_RIGHT.values(), ids=HALF_RIGHT)
def test_a_half_right_row_gets_an_error_that_names_the_fix(row: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RowError) as refused:
        to_conversation(row)
    assert all(word in refused.value.detail for word in words), refused.value.detail
    assert "\n" not in refused.value.detail


# What a peer would obey and we would pass over: each must become an effect or a refusal.
PASSED_OVER = {
    "axolotl: a part that is not trained": {
        "messages": [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "a", "train": False}, {"type": "text", "text": "b"}],
            },
        ]
    },
    "axolotl: training_detail": {
        "messages": [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": "ab",
                "training_detail": [{"begin_offset": 0, "end_offset": 0, "train": False}],
            },
        ]
    },
    "axolotl: context beside question and answer": {"context": "c", "question": "q", "answer": "a"},
    "LLaMA-Factory: a bad answer of KTO data": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
        "label": False,
    },
}


@pytest.mark.parametrize("row", PASSED_OVER.values(), ids=PASSED_OVER)
def test_nothing_that_a_peer_obeys_is_passed_over(row: dict[str, Any]) -> None:
    try:
        messages = to_conversation(row).messages
    except RowError:
        messages = ()
    answer = messages[-1] if messages else None
    assert answer is None or answer.train is False or "c" in messages[0].content.split()
