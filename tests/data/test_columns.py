"""Rows with names of their own: `columns` makes them the rows they stand for, or says what is wrong with the names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.config import DataConfig, TrainConfig, build
from agentsft.data.columns import Columns
from agentsft.data.formats import to_conversation
from agentsft.data.read import read_rows
from agentsft.errors import RowError, UserError
from agentsft.types import Row

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"name": "add", "arguments": {"a": 1}}
USUAL = {
    "id": "r1",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "reasoning_content": "t", "tool_calls": [CALL], "train": False},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        {"role": "assistant", "content": "a", "weight": 2.0},
    ],
    "tools": [TOOL],
    "chat_template_kwargs": {"x": 1},
}
FIELDS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "train", "weight")
WORDS = st.sampled_from(["talk", "who", "say", "role", "content", "messages", "a", "output", "tool_calls", "id"])
NAMES = st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=13, max_size=13, unique=True)


def renamed(names: dict[str, str], roles: dict[str, str], record: dict[str, Any] = USUAL) -> dict[str, Any]:
    messages = [
        {names.get(key, key): roles.get(value, value) if key == "role" else value for key, value in message.items()}
        for message in record["messages"]
    ]
    return {names.get(key, key): messages if key == "messages" else value for key, value in record.items()}


def read(path: Path, record: Any, **settings: Any) -> list[Row]:
    path.write_text(json.dumps(record), encoding="utf-8")
    return list(read_rows([str(path)], **settings))


@given(NAMES, st.booleans())
def test_a_row_under_any_names_is_the_row_that_it_stands_for(made: list[str], as_text: bool) -> None:
    names = dict(zip(("messages", "tools", "chat_template_kwargs", "id", *FIELDS), made, strict=False))
    roles = {"user": made[11], "assistant": made[12]}
    record = renamed(names, roles)
    if as_text:
        record[names["messages"]] = json.dumps(record[names["messages"]])
    columns = Columns({**names, "roles": {ours: [theirs] for ours, theirs in roles.items()}}, "columns")
    assert to_conversation(columns(record)) == to_conversation(USUAL)
    columns.check()
    decoys = {"conversation": [{"role": "user", "content": "no"}], "functions": [{"name": "no"}], "uid": "no"}
    assert to_conversation(columns({**decoys, **record})) == to_conversation(USUAL)


@given(st.permutations(("instruction", "input", "output", "system")))
def test_names_may_change_places(theirs: list[str]) -> None:
    row = {"instruction": "q", "input": "more", "output": "a", "system": "s"}
    names = dict(zip(row, theirs, strict=True))
    moved = {names[ours]: value for ours, value in row.items()}
    assert to_conversation(Columns(names, "columns")(moved)) == to_conversation(row)


def test_what_is_named_is_read_in_that_place_alone_and_nothing_else_in_its_place() -> None:
    asked = {"prompt": "q", "system": "a"}
    assert to_conversation(Columns({"completion": "system"}, "columns")(asked)) == to_conversation(
        {"prompt": "q", "completion": "a"}
    )
    talk = [{"by": "user", "role": "no", "value": "q", "content": "no"}, {"by": "assistant", "value": "a"}]
    decoys = {"messages": [{"role": "user", "content": "no"}], "tools": [{"name": "no"}]}
    columns = Columns({"conversations": "talk", "functions": "apis", "from": "by", "value": "value"}, "columns")
    read = to_conversation(columns({**decoys, "talk": talk, "apis": [TOOL]}))
    assert read == to_conversation({"prompt": "q", "completion": "a", "tools": [TOOL]})


def test_questions_and_answers_under_other_names_are_read_and_messages_beside_them_are_not(tmp_path: Path) -> None:
    row = {"ask": "q", "reply": "a", "messages": [{"role": "user", "content": "no"}]}
    for names in ({"instruction": "ask", "output": "reply"}, {"query": "ask", "response": "reply"}):
        (found,) = read(tmp_path / "a.json", [row], columns=names)
        assert found.conversation is not None
        assert [(m.role, m.content) for m in found.conversation.messages] == [("user", "q"), ("assistant", "a")]
    prompt = {"ask": [{"who": "user", "say": "q"}], "reply": [{"who": "assistant", "say": "a"}]}
    names = {"prompt": "ask", "completion": "reply", "role": "who", "content": "say"}
    (found,) = read(tmp_path / "b.json", prompt, columns=names)  # a single row in a file
    assert found.conversation == to_conversation({"prompt": "q", "completion": "a"})


def test_each_path_may_have_names_of_its_own(tmp_path: Path) -> None:
    talk = [{"speaker": "client", "text": "q"}, {"speaker": "agent", "text": "a"}]
    (tmp_path / "own.jsonl").write_text(json.dumps({"talk": talk}) + "\n", encoding="utf-8")
    (tmp_path / "usual.json").write_text(json.dumps([{"prompt": "q", "completion": "a"}]), encoding="utf-8")
    own, usual = str(tmp_path / "own.jsonl"), str(tmp_path / "usual.json")
    names = {
        "messages": "talk", "role": "speaker", "content": "text", "roles": {"user": "client", "assistant": ["agent"]},
    }  # fmt: skip
    entry = {"path": own, "weight": 2, "columns": names}
    config = build(TrainConfig, {"data": [entry, usual], "eval_data": [{"path": own, "columns": names}]}, "r.yaml")
    assert (config.data, config.eval_data, config.data_weights) == ([own, usual], [own], {own: 2})
    assert config.columns == {own: names}
    assert build(TrainConfig, vars(config), "r.yaml") == config
    first, second = read_rows(config.data, columns=config.columns)
    assert first.conversation == second.conversation == to_conversation({"prompt": "q", "completion": "a"})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt name": ({"mesages": "talk"}, "'mesages'.* Did you mean \"messages\""),
    "the other way round": ({"text1": "query"}, "from our name to yours, so write query: text1"),
    "two names of the question": ({"prompt": "a", "query": "b", "output": "c"}, "mean the same.*input"),
    "two names of one column": ({"instruction": "a", "output": "a"}, "cannot be both"),
    "no name": ({"messages": ["a"]}, "messages takes the name"),
    "roles that are none": ({"roles": {"customer": "x"}}, "unknown role 'customer'"),
    "roles the other way round": ({"roles": {"customer": "user"}}, "user: customer"),
    "a role twice": ({"roles": {"user": "x", "assistant": ["x"]}}, "'x' cannot be both user and assistant"),
    "roles that are a text": ({"roles": "human"}, "roles takes a mapping"),
    "a path that is not there": ({"rows.jsonl": {"messages": "talk"}}, 'Did you mean "row.jsonl"'),
}


@pytest.mark.parametrize(("columns", "words"), WRONG.values(), ids=WRONG)
def test_names_that_cannot_be_are_said_at_once(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        build(DataConfig, {"data": ["row.jsonl"], "columns": columns}, "r.yaml")
    assert str(error.value).startswith("r.yaml: columns")


def test_a_row_without_a_named_column_is_refused_with_the_nearest_that_it_has(tmp_path: Path) -> None:
    good = {"talk": [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}]}
    rows = [good, {"tolk": good["talk"]}, {"talk": [{"role": "user", "txt": "q"}]}]
    columns = {"messages": "talk", "content": "text"}
    found = read(tmp_path / "a.json", rows, columns=columns)
    assert [row.refusal.reason if row.refusal else "" for row in found] == ["", "missing_column", "missing_column"]
    first, second = (row.refusal for row in found[1:])
    assert first is not None
    assert second is not None
    assert "no 'talk', which columns names for messages. Did you mean \"tolk\"" in first.detail
    assert second.message == 0
    assert 'Did you mean "txt"' in second.detail


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"tools": "function"}, r"columns: no row has 'function', which is to be tools. Did you mean \"functions\""),
        ({"train": "lern"}, r"columns: no message has 'lern', which is to be train. Did you mean \"learn\""),
        ({"system": "zz"}, "Fields: conversations, functions"),
    ],
)
def test_a_name_that_no_row_has_is_an_error_of_the_names(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    messages = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "learn": False}]
    rows = [{"conversations": messages, "functions": []}]
    with pytest.raises(UserError, match=words):
        read(tmp_path / "a.json", rows, columns=columns)


def test_broken_rows_stay_refused_for_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    talk = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    path.write_text(f'{{"talk": {talk}}}\n{{"talk": \n3\n{{"talk": "["}}\n{{"talk": [3]}}\n', encoding="utf-8")
    rows = read_rows([str(path)], columns={"messages": "talk", "role": "role"})
    reasons = [row.refusal.reason if row.refusal else None for row in rows]
    assert reasons == [None, "malformed_json", "unknown_format", "malformed", "unknown_format"]


def test_an_answer_that_is_not_trained_is_counted(tmp_path: Path) -> None:
    unread: Counter[str] = Counter()
    row = {"query": "q", "response": "a", "rejected_response": "b"}
    assert read(tmp_path / "a.json", [row, row], unread=unread)[1].conversation is not None
    assert unread == {"rejected_response": 2}


def test_other_names_make_other_prepared_rows(tmp_path: Path) -> None:
    from agentsft.data.paths import find_sources

    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    path = str(tmp_path / "a.json")
    names: list[dict[str, Any]] = [{}, {"messages": "x"}, {path: {"messages": "y"}}]
    seen = {repr([source.columns for source in find_sources([path], columns)]) for columns in names}
    assert len(seen) == 3
    assert not any(" at 0x" in text for text in seen)


def test_a_row_error_says_what_a_hand_made_record_lacks() -> None:
    with pytest.raises(RowError, match="no 'talk', which columns names"):
        Columns({"messages": "talk"}, "columns")({"id": 3})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "user", "a", "[", '[{"who": "user"}]']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(ANY, st.sampled_from([{"messages": "talk", "role": "who", "content": "say"}, {"prompt": "say", "output": "a"}]))
def test_any_record_under_any_names_is_a_conversation_or_refused(record: Any, names: dict[str, Any]) -> None:
    columns = Columns({**names, "roles": {"user": "a"}}, "columns")
    try:
        found = to_conversation(columns(record)).messages
    except RowError as error:
        assert str(error)
    else:
        assert any(message.role == "assistant" for message in found)


def test_rows_of_other_data_are_compared_under_the_names_of_all_data_alone(tmp_path: Path) -> None:
    from agentsft.cli.merge import _settings

    recipe = {"data": ["a.jsonl"], "columns": {"messages": "talk", "a.jsonl": {"messages": "own"}}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert _settings(str(tmp_path), "base", ["b.jsonl"], False).columns == {"messages": "talk"}
    assert _settings(str(tmp_path), "base", [], False).columns == recipe["columns"]


def test_samples_behind_a_name_are_answered_with_weights(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl#500: no such file or folder\. For some of its rows: data_weights"):
        read_rows([f"{tmp_path / 'a.jsonl'}#500"])
