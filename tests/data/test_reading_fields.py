"""Fields of rows and messages under all the names that data sets give them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.data.formats import to_conversation
from agentsft.data.messages import ROLES, read_messages
from agentsft.data.read import read_rows
from agentsft.errors import RowError
from agentsft.types import Message, ToolCall
from tests.data.conversation_forms import json_values, texts

SWITCHES = ("loss", "train", "training", "trainable")
WEIGHTS = ("weight", "loss_weight", "loss_scale")


def one(message: dict, **fields: object) -> Message:
    return to_conversation({"messages": [{"role": "user", "content": "q"}, message], **fields}).messages[-1]


def answer(**fields: object) -> Message:
    return one({"role": "assistant", "content": "a", **fields})


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(
    ("value", "train"), [(True, True), (False, False), (1, True), (0, False), (0.0, False), (None, None)]
)
def test_every_peers_switch_is_read(name, value, train):
    message = answer(**{name: value})
    assert (message.train, message.weight) == (train, None)


@pytest.mark.parametrize("name", WEIGHTS)
@given(value=st.integers(0, 9) | st.floats(1e-30, 1e30))
def test_every_peers_weight_is_read(name, value):
    message = answer(**{name: value})
    assert (message.train, message.weight) == (None, float(value))
    assert isinstance(message.weight, float)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [2, 0.5, -1, "true", [True], {}])
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(RowError, match=name) as error:
        answer(**{name: value})
    assert (error.value.reason, error.value.message) == ("malformed", 1)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [True, False, -0.5, float("nan"), float("inf"), "2", [1.0]])
def test_a_weight_is_a_number_and_no_switch(name, value):
    with pytest.raises(RowError, match=name) as error:
        answer(**{name: value})
    assert (error.value.reason, error.value.message) == ("malformed", 1)


def test_switches_and_weights_combine_but_may_not_contradict():
    message = answer(loss=True, trainable=1, weight=2, loss_scale=2.0)
    assert (message.train, message.weight) == (True, 2.0)
    for fields in ({"loss": True, "train": False}, {"weight": 1, "loss_weight": 2}):
        with pytest.raises(RowError, match="contradicts"):
            answer(**fields)


@given(value=st.dictionaries(texts, json_values, max_size=4), ascii_only=st.booleans())
def test_arguments_as_json_text_are_the_object_in_its_order(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    (call,) = one({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]}).tool_calls
    assert call.arguments == value
    assert json.dumps(call.arguments) == json.dumps(value)


KEPT = [
    "",
    "not json",
    "{'a': 1}",
    '{"a": 1',
    "[1, 2]",
    '"x"',
    "7",
    '{"a": 1, "a": 2}',
    '{"a": NaN}',
    r'{"a": "\ud800"}',
]


@pytest.mark.parametrize("text", KEPT)
def test_arguments_that_are_no_faithful_object_stay_as_they_stand(text):
    message = one({"role": "assistant", "function_call": {"name": "f", "arguments": text}})
    assert message.tool_calls == (ToolCall("f", text),)


F = ToolCall("f", {"x": 1})
CALL_FORMS = [
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
    {"role": "assistant", "content": "", "tool_calls": '[{"name": "f", "arguments": "{\\"x\\": 1}"}]'},
    {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}},
    {"role": "assistant", "content": [{"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'}]},
    {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {"x": 1}}]},
    {"role": "tool_call", "content": '{"name": "f", "arguments": {"x": 1}}'},
    {"from": "function_call", "value": '[{"name": "f", "arguments": {"x": 1}}]'},
    {"role": "tool_call", "content": {"name": "f", "arguments": {"x": 1}}},
]


@pytest.mark.parametrize("raw", CALL_FORMS)
def test_every_way_to_write_a_call_is_one_call(raw):
    assert one(raw) == Message("assistant", tool_calls=(F,))


def test_calls_in_a_row_are_parallel_and_take_the_text_before_them():
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "Let me look.", "loss": False},
        {"role": "tool_call", "content": '{"name": "f", "arguments": {"x": 1}}', "loss": False},
        {"role": "tool_call", "content": '{"name": "g", "arguments": "{}"}', "loss": False},
        {"role": "tool_response", "content": "1"},
        {"role": "tool_response", "content": "2"},
        {"role": "tool_call", "content": '<think>\nhm\n</think>{"name": "f", "arguments": {"x": "</think>"}}'},
        {"role": "assistant", "content": "Done."},
    ]
    assert to_conversation({"messages": messages}).messages == (
        Message("user", "q"),
        Message("assistant", "Let me look.", tool_calls=(F, ToolCall("g", {})), train=False),
        Message("tool", "1"),
        Message("tool", "2"),
        Message("assistant", "<think>\nhm\n</think>", tool_calls=(ToolCall("f", {"x": "</think>"}),)),
        Message("assistant", "Done."),
    )


def test_typed_parts_are_reasoning_text_and_calls():
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "text": "I "},
        {"type": "text", "value": "look."},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}, "id": "1"}'},
    ]
    message = one({"role": "assistant", "content": parts})
    assert message == Message("assistant", "I look.", "hm", (ToolCall("f", {"x": 1}, "1"),))
    for wrong in ([parts[3], parts[1]], [parts[1], parts[0]]):
        with pytest.raises(RowError, match="follows"):
            one({"role": "assistant", "content": wrong})


def test_anthropic_blocks_become_calls_and_tool_messages():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "r"}]},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    conversation = to_conversation({"messages": messages, "tools": tools})
    assert conversation.messages == (
        Message("user", "q"),
        Message("assistant", tool_calls=(ToolCall("f", {"x": 1}, "1"),)),
        Message("tool", "r", tool_call_id="1"),
        Message("user", "and?"),
    )
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert conversation.tools == ({"type": "function", "function": function},)


FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": [FUNCTION]},
        {"tools": [json.dumps(TOOL)]},
        {"tools": [{"function": FUNCTION}]},
        {"tools": TOOL},
        {"tools": "", "functions": [FUNCTION]},
        {"tools": [{**TOOL, "x": None, "function": {**FUNCTION, "strict": None}}]},
    ],
)
def test_every_way_to_write_tools_is_openais(fields):
    messages = [{"role": "assistant", "content": "a"}]
    assert to_conversation({"messages": messages, **fields}).tools == (TOOL,)


@pytest.mark.parametrize("tools", ["", "[]", [], None])
def test_no_tools_may_be_written_in_many_ways(tools):
    assert to_conversation({"messages": [{"role": "assistant", "content": "a"}], "tools": tools}).tools == ()


@pytest.mark.parametrize("name", ["chat_template_kwargs", "template_kwargs"])
@pytest.mark.parametrize("write", [dict, json.dumps])
def test_template_variables_of_a_row_are_read(name, write):
    record = {
        "messages": [{"role": "assistant", "content": "a"}],
        name: write({"enable_thinking": False, "date": None}),
    }
    assert to_conversation(record).template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"id": 0}, "0"),
        ({"uid": "u"}, "u"),
        ({"id": None, "conversation_id": "c"}, "c"),
        ({"id": True}, None),
        ({}, None),
    ],
)
def test_the_rows_own_id_is_kept(fields, wanted):
    assert to_conversation({"messages": [{"role": "assistant", "content": "a"}], **fields}).id == wanted


def u(text: str) -> Message:
    return Message("user", text)


def a(text: str, train: bool | None = None) -> Message:
    return Message("assistant", text, train=train)


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": "i", "input": "x", "output": "o"}, (u("i\nx"), a("o"))),
        ({"instruction": "i", "input": "", "output": "o", "system": "s"}, (Message("system", "s"), u("i"), a("o"))),
        ({"instruction": "", "input": "x", "output": "o"}, (u("x"), a("o"))),
        ({"prompt": "p", "completion": "c"}, (u("p"), a("c"))),
        ({"query": "q", "response": "r", "history": [["1", "2"]]}, (u("1"), a("2"), u("q"), a("r"))),
        ({"instruction": None, "query": "q", "output": None, "response": "r"}, (u("q"), a("r"))),
        (
            {
                "prompt": [
                    {"role": "user", "content": "1"},
                    {"role": "assistant", "content": "2"},
                    {"role": "user", "content": "3"},
                ],
                "completion": [{"role": "assistant", "content": "4"}],
            },
            (u("1"), a("2", train=False), u("3"), a("4")),
        ),
        ({"system": "s", "conversation": [{"human": "1", "assistant": "2"}]}, (Message("system", "s"), u("1"), a("2"))),
        (
            {"system": "s", "messages": [{"role": "system", "content": "s"}, {"role": "gpt", "content": "a"}]},
            (Message("system", "s"), a("a")),
        ),
    ],
)
def test_instructions_and_pairs_become_messages(record, messages):
    assert to_conversation(record).messages == messages


def test_a_fault_in_a_completion_is_counted_from_the_prompts_start():
    record = {"prompt": [{"role": "user", "content": "1"}], "completion": [{"role": "assistant"}]}
    with pytest.raises(RowError) as error:
        to_conversation(record)
    assert error.value.message == 1


def test_message_fields_that_nothing_reads_are_counted_and_known_or_empty_ones_are_not(tmp_path):
    question = {"role": "user", "content": "q", "timestamp": 3, "name": "Ann"}
    answer = {"role": "assistant", "content": "a", "thougth": "hm", "audio": None, "annotations": [], "weight": 2}
    rows = [
        {"messages": [question, answer], "meta": {"a": 1}},
        {"messages": [question, {**answer, "thougth": ""}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "score": 0}]},
        {"prompt": [question], "completion": [answer]},
        {"messages": "none"},
        [question],
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{", encoding="utf-8")
    unread: Counter[str] = Counter()
    assert len(list(read_rows([str(path)], unread=unread))) == 7
    assert unread == {"timestamp": 3, "thougth": 2, "score": 1}


@given(
    st.sampled_from([("role", "content"), ("from", "value"), ("role", "value")]),
    st.sampled_from([*ROLES, "tool-call", "?", None]),
    st.none() | texts | st.lists(texts, max_size=2) | st.just('{"name": "f", "arguments": {}}'),
    st.sampled_from([*SWITCHES, *WEIGHTS, "name", "tool_calls", "reasoning", "images", "training_detail"]),
)
def test_a_message_reads_as_it_does_with_an_empty_field_more(names, role, content, field):
    plain = dict(zip(names, (role, content), strict=True))

    def read(message):
        try:
            return read_messages([{"role": "user", "content": "q"}, message])
        except RowError as error:
            return error.reason, error.message

    assert read(plain) == read({**plain, field: None})
