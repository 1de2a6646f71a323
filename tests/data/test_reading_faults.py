"""Bad input: every fault has its reason and its place, and never costs a good row."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.data.formats import to_conversation
from agentsft.data.read import read_rows
from agentsft.errors import RowError, UserError
from agentsft.types import ROLES, Conversation
from tests.data.conversation_forms import as_openai, conversations

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
BROKEN = {
    "invalid UTF-8": b'{"messages": [{"role": "assistant", "content": "\xff\xfe"}]}',
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "NUL bytes": b"\0" * 40,
    "a NUL within": b'{"messages": [{"role": "assistant", "content": "a\0b"}]}',
    "truncated": b'{"messages": [{"role": "assistant", "con',
    "NaN": b'{"messages": [{"role": "assistant", "content": "a", "weight": NaN}]}',
    "Infinity": b'{"messages": [{"role": "assistant", "content": "a", "weight": -Infinity}]}',
    "a number too large": b'{"messages": [{"role": "assistant", "content": "a", "weight": 1e999}]}',
    "a number too long": b'{"id": ' + b"9" * 5000 + b"}",
    "a lone surrogate": rb'{"messages": [{"role": "assistant", "content": "\uD83D"}]}',
    "surrogates the wrong way": rb'{"messages": [{"role": "assistant", "content": "\ude00\ud83d"}]}',
    "a surrogate in a key": rb'{"\udfff": 1}',
    "duplicate keys": b'{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}',
    "two values": json.dumps(GOOD).encode() * 2,
    "nested too deeply": b'{"a": ' + b"[" * 100_000,
    "a trailing comma": b'{"messages": [],}',
    "a second byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
}


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(conversations() | st.sampled_from(sorted(BROKEN)), min_size=1, max_size=8), last=st.booleans())
def test_bad_lines_never_lose_good_rows(lines, last):
    raw = [BROKEN[line] if isinstance(line, str) else json.dumps(as_openai(line, False)).encode() for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        # The first line is good: a byte order mark before it would be the file's own.
        path.write_bytes(b"\n".join([json.dumps(GOOD).encode(), *raw]) + (b"\n" if last else b""))
        rows = list(read_rows([str(path)]))[1:]
    assert [row.source for row in rows] == [f"{path}:{number}" for number in range(2, len(lines) + 2)]
    assert [row.index for row in rows] == list(range(1, len(lines) + 1))
    for row, line in zip(rows, lines, strict=True):
        if isinstance(line, str):
            assert row.conversation is None, line
            assert row.refusal.reason == "malformed_json", line
            assert "\n" not in row.refusal.detail
        else:
            assert (row.conversation, row.refusal) == (line, None)


@pytest.mark.parametrize("fault", ["NaN", "a number too long", "a lone surrogate", "duplicate keys", "invalid UTF-8"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_unfaithful_row_of_a_json_list_is_refused_alone(tmp_path, fault, wrapped):
    good = json.dumps(GOOD).encode()
    data = b"[" + b" ,\n".join([good, BROKEN[fault], "\u00e9".join(['{"id": "', '"}']).encode(), good]) + b"]"
    path = tmp_path / "a.json"
    path.write_bytes(b'{"n": 1, "rows": ' + data + b"}" if wrapped else data)
    rows = list(read_rows([str(path)]))
    assert [row.source for row in rows] == [f"{path}#{row}" for row in range(4)]
    reasons = [row.refusal and row.refusal.reason for row in rows]
    assert reasons == [None, "malformed_json", "unknown_format", None]
    assert rows[3].conversation == rows[0].conversation == to_conversation(GOOD)


def test_a_parquet_row_that_is_no_text_is_refused_alone(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    rows = pa.array([good, [{**good[0], "content": "YYYY"}, good[1]], good], kind)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": rows}), path, compression="none", use_dictionary=False, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"YYYY", b"Y\xff\xffY"))
    found = list(read_rows([str(path)]))
    assert [row.refusal and row.refusal.reason for row in found] == [None, "malformed", None]
    assert "utf-8" in found[1].refusal.detail
    assert found[0].conversation == found[2].conversation == to_conversation(GOOD)


def outcome(path: Path) -> list[str]:
    """The reasons of a file's rows ("" for a good one), or its one error."""
    try:
        return [row.refusal.reason if row.refusal else "" for row in read_rows([str(path)])]
    except UserError as error:
        return [str(error)]


@given(data=st.lists(st.binary(max_size=30) | st.text(max_size=30).map(str.encode), max_size=4).map(b"\n".join))
def test_any_bytes_give_refusals_or_one_error(data):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.json", "a.parquet"):
            path = Path(folder, name)
            path.write_bytes(data)
            found = outcome(path)
            assert found
            assert set(found) <= {"malformed_json", "unknown_format"} or (len(found) == 1 and str(path) in found[0])
            assert not any("\n" in text for text in found)


ROLE_WORDS = st.sampled_from(["user", "assistant", "gpt", "tool", "tool_call", "system", "x"])
VALUES = st.sampled_from(
    [None, "", "t", "[]", "{}", '[{"name": "f"}]', 0, 1, 2.5, True, [], {}, ["t"], [[]], [{}]]
) | st.sampled_from(
    [
        {"type": kind, key: value}
        for kind in ("text", "reasoning", "tool_call", "tool_result", "image")
        for key in ("text", "value", "content")
        for value in ("t", '{"name": "f"}', {}, ["t"], None)
    ]
)
NESTED = VALUES | st.lists(VALUES, max_size=3)
CALLS = st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "name", "arguments", "function", "input"], NESTED))
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["role", "from"], ROLE_WORDS),
        **dict.fromkeys(
            ["content", "value", "reasoning", "loss", "weight", "function_call", "name", "tool_call_id"], NESTED
        ),
        "tool_calls": NESTED | CALLS | st.lists(CALLS, max_size=2),
    },
)
LISTS = NESTED | st.lists(MESSAGES | VALUES, min_size=1, max_size=3)
OTHERS = ["id", "system", "tools", "input", "history", "chat_template_kwargs", "instruction", "output"]
RECORDS = st.fixed_dictionaries(
    {}, optional={"messages": LISTS, "conversations": LISTS, **dict.fromkeys(OTHERS, NESTED)}
)


@pytest.mark.parametrize("data_format", ["auto", "react"])
@settings(max_examples=150, deadline=None)
@given(record=RECORDS)
def test_any_record_is_a_conversation_or_refused(data_format, record):
    result = conversation_or_reason(record, data_format)
    if isinstance(result, RowError):
        assert result.reason in REASONS
        assert result.detail[-1] == "."
        assert "\n" not in result.detail
        return
    for message in result.messages:
        assert message.role in ROLES
        assert isinstance(message.content, str)
        assert message.role == "assistant" or not message.tool_calls
        assert all(call.name.strip() and isinstance(call.arguments, dict | str) for call in message.tool_calls)
    assert all(isinstance(tool["function"]["name"], str) for tool in result.tools)
    assert any(message.role == "assistant" for message in result.messages)


REASONS = {"unknown_format", "unknown_role", "empty_conversation", "no_assistant", "malformed", "unsupported_content"}


def conversation_or_reason(record: dict, data_format: str) -> Conversation | RowError:
    try:
        return to_conversation(record, data_format)
    except RowError as error:
        return error


def chat(*messages: object, **fields: object) -> dict:
    return {"messages": list(messages), **fields}


ANSWER = {"role": "assistant", "content": "a"}
QUESTION = {"role": "user", "content": "q"}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
REFUSED = [
    ("unknown_format", None, {"text": "abc"}, "text"),
    ("unknown_format", None, {}, "none"),
    ("unknown_format", 0, chat({"speaker": "a", "text": "b"}), "speaker, text"),
    ("unknown_format", None, [1], "object"),
    ("unknown_format", None, "abc", "object"),
    ("unknown_role", 1, chat(QUESTION, {"role": "asistant", "content": "a"}), 'Did you mean "assistant"?'),
    ("unknown_role", 1, chat(QUESTION, {"content": "a"}), "null"),
    ("unknown_role", 0, {"conversations": [{"from": "narrator", "value": "a"}]}, "narrator"),
    ("empty_conversation", None, chat(), "messages"),
    ("empty_conversation", None, {"conversations": "[]"}, "conversations"),
    ("no_assistant", None, chat(QUESTION), "assistant"),
    ("no_assistant", None, {"instruction": "q", "output": ""}, "empty"),
    ("malformed", None, {"instruction": "", "input": "", "output": "a"}, "instruction"),
    ("malformed", 1, chat(QUESTION, "a"), "object"),
    ("malformed", 1, chat(QUESTION, {"role": "assistant", "te\nxt": "a"}), "role, te xt"),
    ("malformed", 1, chat(QUESTION, {"role": "assistant", "content": 3}), "3"),
    ("malformed", 1, chat(QUESTION, {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}), "name"),
    ("malformed", 1, chat(QUESTION, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}), "list"),
    ("malformed", 1, chat(QUESTION, {"role": "tool_call", "content": "f(x)"}), "JSON"),
    ("malformed", 1, chat(QUESTION, {"role": "tool_call", "content": "[]"}), "call"),
    ("malformed", 0, chat({**QUESTION, "tool_calls": [{"name": "f"}]}, ANSWER), "tool calls"),
    ("malformed", 1, chat(QUESTION, {**ANSWER, "reasoning": "x", "thinking": "y"}), "reasoning"),
    ("malformed", 1, chat({**ANSWER, "loss": True}, {"role": "tool_call", "content": '{"name": "f"}'}), "flag"),
    ("malformed", None, chat(ANSWER, tools="[{"), "tools"),
    ("malformed", None, chat(ANSWER, tools=[{"description": "x"}]), "tools"),
    ("malformed", None, chat(ANSWER, tools=[{"type": "web_search", "name": "x"}]), "tools"),
    ("malformed", None, chat(ANSWER, chat_template_kwargs="yes"), "chat_template_kwargs"),
    ("malformed", 0, chat({"role": "system", "content": "x"}, ANSWER, system="y"), "system"),
    ("malformed", None, {"query": "q", "response": "a", "history": [["only"]]}, "history"),
    ("unsupported_content", 0, chat({"role": "user", "content": [IMAGE]}, ANSWER), "image_url"),
    ("unsupported_content", 0, chat({**QUESTION, "audio": {"id": "x"}}, ANSWER), "audio"),
    ("unsupported_content", None, chat(QUESTION, ANSWER, images=["a.png"]), "images"),
]


@pytest.mark.parametrize(("reason", "message", "record", "says"), REFUSED)
def test_each_fault_has_its_reason_and_place(tmp_path, reason, message, record, says):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(record) + "\n")
    good, bad = read_rows([str(path)])
    assert good.conversation
    assert bad.source == f"{path}:2"
    assert (bad.refusal.reason, bad.refusal.message) == (reason, message), bad.refusal.detail
    assert says in bad.refusal.detail


@pytest.mark.parametrize("data_format", ["openai", "sharegpt", "alpaca"])
def test_a_named_format_refuses_the_others_and_prefers_its_own_fields(data_format):
    records = {
        "openai": GOOD,
        "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "alpaca": {"instruction": "q", "output": "a"},
    }
    for name, record in records.items():
        if name == data_format:
            assert to_conversation(record, data_format) == to_conversation(GOOD)
        else:
            with pytest.raises(RowError) as error:
                to_conversation(record, data_format)
            assert error.value.reason == "unknown_format"
    both = {**GOOD, "instruction": "x", "output": "y"}
    assert [m.content for m in to_conversation(both, "alpaca").messages] == ["x", "y"]
    assert [m.content for m in to_conversation(both, "auto").messages] == ["q", "a"]


def test_unknown_settings_name_the_nearest():
    with pytest.raises(UserError, match='Did you mean "sharegpt"'):
        read_rows(["x.jsonl"], data_format="sharegp")
    with pytest.raises(UserError, match='Did you mean "hermes"'):
        read_rows(["x.jsonl"], agent_format="herms")
    with pytest.raises(UserError, match="keep, inline"):
        read_rows(["x.jsonl"], reasoning="drop")
