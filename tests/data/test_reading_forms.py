"""The same conversation reads the same from every format and every kind of file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.data.formats import to_conversation
from agentsft.data.read import read_rows
from agentsft.types import Conversation
from tests.data.conversation_forms import FORMS, arguments, as_openai, conversations, names, texts, write_jsonl


def read(*paths: object, **settings: Any) -> list[Conversation]:
    rows = list(read_rows([str(path) for path in paths], **settings))
    assert [row.refusal for row in rows] == [None] * len(rows)
    assert [row.index for row in rows] == list(range(len(rows)))
    return [row.conversation for row in rows if row.conversation]


@settings(max_examples=60, deadline=None)
@given(conversation=conversations(), form=st.sampled_from(FORMS), as_text=st.booleans())
def test_a_conversation_reads_the_same_from_every_form(conversation, form, as_text):
    assert to_conversation(form(conversation, as_text), "auto") == conversation


@settings(max_examples=60, deadline=None)
@given(conversation=conversations(with_ids=True), as_text=st.booleans())
def test_call_ids_survive_in_openai_form(conversation, as_text):
    assert to_conversation(as_openai(conversation, as_text), "openai") == conversation


@settings(max_examples=25, deadline=None)
@given(
    written=st.lists(st.tuples(conversations(), st.sampled_from(FORMS)), min_size=1, max_size=4),
    ascii_only=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n", "\n \n\r\n"]),
    bom=st.sampled_from(["", "\ufeff"]),
)
def test_every_kind_of_file_reads_the_same(written, ascii_only, newline, bom):
    conversations_ = [conversation for conversation, _ in written]
    records = [form(conversation, True) for conversation, form in written]
    with tempfile.TemporaryDirectory() as folder:
        jsonl = write_jsonl(Path(folder, "a.jsonl"), records, ascii_only, newline, bom)
        as_list, as_object = Path(folder, "b.json"), Path(folder, "c.json")
        as_list.write_bytes((bom + json.dumps(records, ensure_ascii=ascii_only, indent=1)).encode())
        as_object.write_text(json.dumps({"version": 1, "data": records}, ensure_ascii=ascii_only), encoding="utf-8")
        lines_in_json = write_jsonl(Path(folder, "d.json"), records, ascii_only, newline)
        parquet = Path(folder, "e.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_same_keys(records)), parquet)
        for path in (jsonl, as_list, as_object, lines_in_json, parquet):
            assert read(path) == conversations_, path
        assert read(folder) == conversations_ * 5


def _same_keys(records: list[dict]) -> list[dict]:
    """pyarrow takes the columns from the first row."""
    keys = {key: None for record in records for key in record}
    return [{**keys, **record} for record in records]


string_arguments = st.dictionaries(names, texts, min_size=1, max_size=3)
parameters = st.dictionaries(
    names, st.fixed_dictionaries({"type": st.just("string")}, optional={"title": texts}), min_size=1
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(string_arguments, parameters), min_size=2, max_size=4))
def test_null_padding_of_arrow_never_survives(rows):
    records = [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": args}}]},
                {"role": "tool", "content": "r", "tool_call_id": None},
            ],
            "tools": [{"name": "f", "parameters": {"type": "object", "properties": properties}}],
        }
        for args, properties in rows
    ]
    table = pyarrow.Table.from_pylist(records)
    with tempfile.TemporaryDirectory() as folder:
        parquet, exported = Path(folder, "a.parquet"), Path(folder, "b.jsonl")
        pyarrow.parquet.write_table(table, parquet)
        wanted = [to_conversation(record) for record in records]
        assert read(parquet) == wanted
        # What Arrow exports as JSON keeps the padding: there only arguments may hold it, as a null can be meant there.
        write_jsonl(exported, table.to_pylist())
        assert [conversation.tools for conversation in read(exported)] == [
            conversation.tools for conversation in wanted
        ]


@given(arguments=arguments)
def test_null_arguments_of_json_are_data(arguments):
    arguments = {**arguments, "reason": None, "deep": [{"x": None}]}
    messages = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]
    assert to_conversation({"messages": messages}).messages[0].tool_calls[0].arguments == arguments


def test_a_null_default_stays_where_the_schema_allows_null():
    properties = {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": None},
        "b": {"type": ["integer", "null"], "default": None},
        "c": {"type": "string", "default": None, "enum": None},
    }
    record = {"messages": [{"role": "assistant", "content": "x"}], "tools": [{"name": "f", "parameters": properties}]}
    read_back = to_conversation(record).tools[0]["function"]["parameters"]
    assert read_back == {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "b": {"type": ["integer", "null"], "default": None},
        "c": {"type": "string"},
    }


def test_json_columns_of_datasets_are_decoded(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("this version of datasets has no Json feature")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": {"x": 1}}}}
    message = {"role": "assistant", "content": '"quoted"'}
    features = datasets.Features({"messages": datasets.List(datasets.Json()), "tools": datasets.List(datasets.Json())})
    dataset = datasets.Dataset.from_list([{"messages": [message], "tools": [tool]}], features=features)
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    wanted = [to_conversation({"messages": [message], "tools": [tool]})]
    assert read(tmp_path / "a.parquet") == wanted
    assert read(tmp_path / "saved") == wanted
    assert read(tmp_path) == wanted * 2


def test_a_file_may_hold_a_single_conversation(tmp_path):
    record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(record, indent=2) + "\n")
    assert read(tmp_path / "a.json") == [to_conversation(record)]


@pytest.mark.parametrize("inline", [False, True])
def test_reasoning_is_kept_or_folded_into_the_content(tmp_path, inline):
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "assistant", "content": "a", "reasoning": "r"},
        {"role": "assistant", "content": None, "thinking": "t", "tool_calls": [call]},
        {"role": "assistant", "content": "<think>x</think>b", "reasoning_content": ""},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    (conversation,) = read(path, reasoning="inline" if inline else "keep")
    found = [(message.reasoning, message.content) for message in conversation.messages]
    if inline:
        wanted = [(None, "<think>\nr\n</think>\n\na"), (None, "<think>\nt\n</think>\n\n"), (None, "<think>x</think>b")]
    else:
        wanted = [("r", "a"), ("t", ""), (None, "<think>x</think>b")]
    assert found == wanted
    assert len(conversation.messages[1].tool_calls) == 1
