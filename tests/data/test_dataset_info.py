"""What LLaMA-Factory's dataset_info.json declares is read under its names, obeyed as it is there, or refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentsft.data.formats import to_conversation
from agentsft.data.read import read_rows
from agentsft.errors import UserError
from agentsft.types import Row

CALL = '{"name": "add", "arguments": {"a": 1}}'
TOOLS = json.dumps([{"name": "add", "parameters": {"type": "object"}}])
TALK = [
    {"who": "client", "say": "q"},
    {"who": "call", "say": CALL},
    {"who": "result", "say": "1"},
    {"who": "bot", "say": "a"},
]
TAGS = {
    "role_tag": "who", "content_tag": "say", "user_tag": "client", "assistant_tag": "bot",
    "observation_tag": "result", "function_tag": "call", "system_tag": "rules",
}  # fmt: skip
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": CALL},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "a"},
    ],
    "system": "s",
    "tools": TOOLS,
}
PLAIN: dict[str, Any] = {"instruction": "q", "input": "more", "output": "a"}
ALPACA = {**PLAIN, "system": "s", "history": [["x", "y"]]}
OPENAI = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}

# (what is declared, a row, the row in its usual form that it stands for)
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "alpaca by default": ({}, PLAIN, PLAIN),
    "alpaca by default, without input": (
        {}, {"instruction": "q", "output": "a"}, {"instruction": "q", "output": "a"},
    ),
    "alpaca with columns": (
        {"columns": {"prompt": "ask", "query": "below", "response": "reply", "system": "rules", "history": "before"}},
        {"ask": "q", "below": "more", "reply": "a", "rules": "s", "before": [["x", "y"]]},
        ALPACA,
    ),
    "system and history that are not named are not read": ({}, ALPACA, PLAIN),
    "columns without query: input is not read": (
        {"columns": {"prompt": "instruction", "response": "output"}},
        PLAIN,
        {"instruction": "q", "output": "a"},
    ),
    "sharegpt by default": (
        {"formatting": "sharegpt"}, SHAREGPT, {"conversations": SHAREGPT["conversations"]},
    ),
    "sharegpt with columns and tags": (
        {"formatting": "sharegpt", "columns": {"messages": "talk", "system": "rules", "tools": "apis"}, "tags": TAGS},
        {"talk": TALK, "rules": "s", "apis": TOOLS},
        SHAREGPT,
    ),
    "sharegpt with its system text as a message": (
        {"formatting": "sharegpt", "columns": {"messages": "talk", "tools": "apis"}, "tags": TAGS},
        {"talk": [{"who": "rules", "say": "s"}, *TALK], "apis": TOOLS},
        SHAREGPT,
    ),
    "openai": (
        {
            "formatting": "openai",
            "columns": {"messages": "messages"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
        OPENAI,
        OPENAI,
    ),
}  # fmt: skip


def declare(folder: Path, entry: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({"mine": {"file_name": "rows.json", **entry}, "other": {}}), encoding="utf-8")
    return f"{info}:mine"


def read(path: str) -> list[Row]:
    return list(read_rows([path]))


@pytest.mark.parametrize(("entry", "row", "usual"), FORMS.values(), ids=FORMS)
def test_a_declared_file_is_read_under_its_names(
    entry: dict[str, Any], row: dict[str, Any], usual: dict[str, Any], tmp_path: Path
) -> None:
    (found,) = read(declare(tmp_path, entry, [row]))
    assert found.conversation == to_conversation(usual)
    assert found.source == f"{tmp_path / 'rows.json'}#0"


def test_what_it_does_not_read_is_counted(tmp_path: Path) -> None:
    unread: Counter[str] = Counter()
    assert len(list(read_rows([declare(tmp_path, {}, [ALPACA])], unread=unread))) == 1
    assert unread == {"system": 1, "history": 1}


def test_a_bad_answer_of_kto_data_is_refused(tmp_path: Path) -> None:
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations", "kto_tag": "good"}}
    rows = [{**SHAREGPT, "good": good} for good in (True, False)]
    assert [row.refusal and row.refusal.reason for row in read(declare(tmp_path, entry, rows))] == [
        None,
        "rejected_answer",
    ]


def test_pictures_are_refused_under_their_own_name(tmp_path: Path) -> None:
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "shots"}}
    (row,) = read(declare(tmp_path, entry, [{**SHAREGPT, "shots": ["a.png"]}]))
    assert row.refusal
    assert row.refusal.reason == "unsupported_content"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt key": ({"colums": {}}, 'mine: unknown key \'colums\'. Did you mean "columns"'),
    "a misspelt column": ({"columns": {"mesages": "m"}}, 'columns: unknown key \'mesages\'. Did you mean "messages"'),
    "a misspelt tag": ({"formatting": "sharegpt", "tags": {"user_tags": "u"}}, 'Did you mean "user_tag"'),
    "a column that no row has": ({"columns": {"prompt": "instruction", "response": "output", "system": "sytem"}},
                                 'no row has \'sytem\', which is to be system. Did you mean "system"'),
    "no answer": ({"columns": {"prompt": "instruction"}}, "columns names no response"),
    "an unknown formatting": ({"formatting": "sharegtp"}, 'Did you mean "sharegpt"'),
    "pairs": ({"ranking": True}, "ranking: pairs of a chosen and a rejected answer"),
    "a share of the rows": ({"num_samples": 5}, "num_samples is not read"),
    "a missing file": ({"file_name": "rws.json"}, "rws.json: no such file"),
    "columns that are a text": ({"columns": "q"}, "columns is 'q'; it must be an object"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "words"), WRONG.values(), ids=WRONG)
def test_a_half_right_declaration_gets_an_error_that_names_the_fix(
    entry: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = declare(tmp_path, entry, [{**ALPACA}])
    with pytest.raises(UserError) as error:
        read(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "dataset_info.json") in str(error.value)


def test_names_that_it_does_not_have_and_the_file_itself_are_answered_with_those_that_it_has(tmp_path: Path) -> None:
    path = declare(tmp_path, {}, [PLAIN])
    with pytest.raises(UserError, match=r"no 'mein'\. Did you mean \"mine\""):
        read(path.replace(":mine", ":mein"))
    with pytest.raises(UserError, match=r"name one of them, as .*:NAME\. It has mine, other"):
        read(path.removesuffix(":mine"))
    with pytest.raises(UserError, match="has no file_name"):
        read(path.replace(":mine", ":other"))


def test_a_hub_data_set_is_named_with_its_split(tmp_path: Path) -> None:
    from agentsft.data.paths import find_sources

    entry = {"file_name": None, "hf_hub_url": "org/set", "subset": "en", "split": "test"}
    (source,) = find_sources([declare(tmp_path, entry, [])])
    assert (source.kind, source.path) == ("hub", "org/set:en:test")
