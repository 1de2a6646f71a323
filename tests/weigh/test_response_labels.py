"""What the parts of a response are called, in every format that says it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.types import LABELS
from agentsft.weigh.labels import label_response

CALL, THINK, TEXT = "tool_call", "think", "text"

CASES = {
    "plain": [("It is 18°C.", TEXT)],
    "think": [("<think>\nhm\n</think>\n\n", THINK), ("It is 18.", TEXT)],
    "empty think": [("<think>\n\n</think>\n\n", THINK), ("It is 18.", TEXT)],
    "the prompt opened the block": [("\nhm\n</think>\n\n", THINK), ("It is 18.", TEXT)],
    "the prompt opened and closing comes first": [("</mm:think>\n\n", THINK), ("It is 18.", TEXT)],
    "a second block": [("<think>a</think> ", THINK), ("b ", TEXT), ("<think>c</think>", THINK)],
    "a block after text": [("a ", TEXT), ("<think>b</think> ", THINK), ("c", TEXT)],
    "a block never closed": [("a ", TEXT), ("<think>b", THINK)],
    "keywords inside thinking": [("<think>\nAction: x\n</think>\n", THINK), ("Action: y", "action")],
    "markers inside thinking": [("<think>\n<tool_call>\nThought: no\n</think>\n", THINK), ("It is 18.", TEXT)],
    "markers inside a call": [("<tool_call>\nAction: <think>\n</tool_call>", CALL), ("\nIt is 18.", TEXT)],
    "Seed": [("<seed:think>hm</seed:think>", THINK), ("<seed:tool_call>f</seed:tool_call>", CALL)],
    "Gemma": [("<|channel>thought\nhm\n<channel|>", THINK), ("<|tool_call>call:f{}<tool_call|>", CALL)],
    "MiniMax": [("<mm:think>hm</mm:think>\n", THINK), ("ok", TEXT)],
    "Mistral": [("[THINK]hm[/THINK]", THINK), ("I call.", TEXT), ('[TOOL_CALLS][{"name": "f"}]', CALL)],
    "Hermes": [
        ("I call.\n", TEXT),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', CALL),
        ("\n", TEXT),
        ("<tool_call>\ng\n</tool_call>", CALL),
        (" done", TEXT),
    ],
    "Qwen 3 coder": [("<tool_call>\n<function=f>\n</function>\n</tool_call>", CALL)],
    "Llama function": [("<function=f>{}</function>", CALL), (" ok", TEXT)],
    "Llama built-in": [("Now: ", TEXT), ('<|python_tag|>f.call(a="b")', CALL)],
    "Llama JSON": [('{"name": "f", "parameters": {"a": "Thought: no"}}', CALL)],
    "LFM": [("<|tool_call_start|>[f()]<|tool_call_end|>", CALL), ("I wait.", TEXT)],
    "DeepSeek": [("Wait.", TEXT), ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁calls▁end｜>", CALL)],
    "a whole trajectory in one response": [
        ("<tool_call>f</tool_call>", CALL),
        ("\n", TEXT),
        ("<tool_response>18</tool_response>", "observation"),
        ("\nIt is 18.", TEXT),
    ],
    "gpt-oss call": [
        ("<|channel|>analysis<|message|>Thought: hm<|end|>", THINK),
        ("<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}", CALL),
    ],
    "gpt-oss call, recipient in the channel": [("<|channel|>commentary to=functions.f <|message|>{}", CALL)],
    "gpt-oss answer": [
        ("<|channel|>analysis<|message|>hm<|end|>", THINK),
        ("<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>", TEXT),
        ("<|start|>assistant<|channel|>final<|message|>It is 18.", TEXT),
    ],
    "Muse Glimmer": [
        (" to=self<|message|>hm<|eom|>", THINK),
        ("<|start|>assistant to=user<|message|>It is 18.", TEXT),
    ],
    "ReAct": [
        ("Sure.\n", TEXT),
        ("Thought: t\n", "thought"),
        ("Action: a\n", "action"),
        ('Action Input: {"Action: no": "\\nThought: no"}\n', "action_input"),
        ("Observation: o\n", "observation"),
        ("Final Answer: f", "final_answer"),
    ],
    "ReAct in bold": [("**", TEXT), ("Thought:** t\n**", "thought"), ("Action**: a", "action")],
    "ReAct with wide colons": [
        ("Thought：全角\n", "thought"),
        ("Action：f\n", "action"),
        ("Action Input：{}", "action_input"),
    ],
    "ReAct with CRLF, indented": [("Thought: t\r\n  ", "thought"), ("Action: a\r\n", "action")],
    "a call ends a thought": [
        ("Thought: t\n", "thought"),
        ("<tool_call>f</tool_call>", CALL),
        ("\n", TEXT),
        ("Action: a", "action"),
    ],
    "not at the start of a line": [("My Thought: is an Action: of sorts", TEXT)],
    "Qwen's flowers": [
        ("Hm. ", TEXT),
        ("✿FUNCTION✿: f\n", "action"),
        ("✿ARGS✿: {}\n", "action_input"),
        ("✿RESULT✿: r\n", "observation"),
        ("✿RETURN✿: a", "final_answer"),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_parts_are_labelled(name):
    response = "".join(text for text, _ in CASES[name])
    assert [(response[start:end], label) for start, end, label in label_response(response)] == CASES[name]


fragments = st.lists(
    st.sampled_from(
        [text for parts in CASES.values() for text, _ in parts]
        + ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", "<|message|>", "<|start|>", "✿ARGS✿", "**", " "]
    )
    | st.text(max_size=5),
    max_size=10,
)


@given(fragments)
def test_labels_partition_any_text(parts):
    response = "".join(parts)
    pieces = label_response(response)
    assert [start for start, _, _ in pieces] + [len(response)] == [0] + [end for _, end, _ in pieces]
    assert all(start < end and label in LABELS for start, end, label in pieces)


@pytest.mark.parametrize(
    "unit",
    ["<think>", "</think>", "<tool_call>", "\n ", "\nThought", "\n** ", "<|start|>", "<|message|>", "[THINK]", " "],
)
def test_labelling_takes_linear_time(unit):
    response = unit * 200_000
    start = time.process_time()
    pieces = label_response(response)
    assert time.process_time() - start < 3
    assert pieces[-1][1] == len(response)
