"""An entry of axolotl's `datasets`, given as one of `data`: its rows are read, or it is said what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentsft.config import TrainConfig, build
from agentsft.data.formats import to_conversation
from agentsft.data.read import read_rows
from agentsft.errors import UserError

ANSWERED = {"prompt": "q", "completion": "a"}
FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat_template with property mappings and roles": (
        """
        type: chat_template
        chat_template: tokenizer_default
        field_messages: talk
        message_property_mappings: {role: speaker, content: text}
        roles: {user: [client], assistant: [agent, bot]}
        roles_to_train: [assistant]
        train_on_eos: turn
        """,
        {"talk": [{"speaker": "client", "text": "q"}, {"speaker": "bot", "text": "a"}]},
        ANSWERED,
    ),
    "older names of role and content": (
        """
        type: chat_template
        field_messages: conversations
        message_field_role: from
        message_field_content: value
        """,
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        ANSWERED,
    ),
    "a switch, thinking, tools and system of another name": (
        """
        type: chat_template
        message_field_training: learn
        field_thinking: thoughts
        field_tools: apis
        field_system: rules
        """,
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "thoughts": "t", "learn": False},
            ],
            "apis": [{"name": "add"}],
            "rules": "s",
        },
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "reasoning_content": "t", "train": False},
            ],
            "tools": [{"name": "add"}],
        },
    ),
    "sharegpt": (
        "type: sharegpt.load_role",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        ANSWERED,
    ),
    "alpaca": ("type: alpaca", {"instruction": "q", "input": "", "output": "a"}, ANSWERED),
    "load_qa": ("type: alpaca_chat.load_qa", {"question": "q", "answer": "a"}, ANSWERED),
    "a type of one's own": (
        "type: {field_instruction: ask, field_output: reply, field_system: rules}",
        {"ask": "q", "reply": "a", "rules": "s"},
        {**ANSWERED, "system": "s"},
    ),
}


def config(entry: str, path: str, **more: Any) -> TrainConfig:
    return build(TrainConfig, {"data": [{"path": path, **yaml.safe_load(entry), **more}]}, "r.yaml")


@pytest.mark.parametrize(("entry", "row", "usual"), FORMS.values(), ids=FORMS)
def test_an_entry_of_axolotls_is_read_under_its_names(
    entry: str, row: dict[str, Any], usual: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    made = config(entry, str(path), ds_type="json", weight=2)
    assert (made.data, made.data_weights) == ([str(path)], {str(path): 2})
    (found,) = read_rows(made.data, columns=made.columns)
    assert found.conversation == to_conversation(usual)


NOT_READ: dict[str, tuple[str, str]] = {
    "another role trained": ("roles_to_train: [assistant, user]", "loss_scale"),
    "other stop tokens": ("train_on_eos: last", "stop token"),
    "no system messages": ("drop_system_message: true", "remove the system messages"),
    "a named template": ("chat_template: chatml", "chat_template of the recipe"),
    "a prompt of one's own": ("type: {format: '[INST] {instruction}', field_instruction: a}", "format is not read"),
    "text without roles": ("type: completion", "'completion' is not read"),
    "a misspelt key": ("type: chat_template\nfield_message: m", 'Did you mean "field_messages"'),
    "two names of the role": (
        "message_field_role: a\nmessage_property_mappings: {role: b}",
        "message_property_mappings",
    ),
    "a property of the template": ("message_property_mappings: {mood: m}", "unknown name 'mood'"),
    "columns too": ("field_messages: a\ncolumns: {messages: a}", "keep one"),
    "data files": ("type: alpaca\ndata_files: [a.json]", "data_files is not read"),
    "another split of a file": ("type: alpaca\nsplit: test", "hub data sets"),
}


@pytest.mark.parametrize(("entry", "words"), NOT_READ.values(), ids=NOT_READ)
def test_what_an_entry_asks_for_and_is_not_read_is_an_error_that_names_the_fix(entry: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        config(entry, "rows.jsonl")
    assert words in str(error.value)
    assert str(error.value).startswith("r.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("type: alpaca", "org/set"),
        ("split: test", "org/set:test"),
        ("name: en", "org/set:en:train"),
        ("name: en\nsplit: test", "org/set:en:test"),
    ],
)
def test_a_hub_data_set_is_named_with_configuration_and_split(entry: str, path: str) -> None:
    assert config(entry, "org/set").data == [path]
