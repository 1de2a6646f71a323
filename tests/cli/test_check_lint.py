"""Warnings of `agentsft check`, as people and machines read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.errors import UserError
from agentsft.lint.finding import KINDS
from tests.conversations import WEATHER

RUNNER = CliRunner()


def row(content: str, question: str = "Rain in Bonn?", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": content}], **more}


def calling(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    made = row("", f"Rain in {arguments['city']}?", tools=[WEATHER])
    made["messages"][1]["tool_calls"] = [call]
    return made


ROWS = [
    row("Final Answer: no"),
    row("Final Answer: no"),
    row("Final Answer: yes"),
    row("Action: note[Thought: \x1b[31m dry]", "Rain in Rome?"),
    calling("get_wether", {"city": "Paris"}),
    calling("get_weather", {"city": 5}),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", ROWS)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(*arguments: object) -> Any:
    settings = ["--loss-scale", "react", "--agent-format", "react"]
    return RUNNER.invoke(app, ["check", *map(str, arguments), *settings])


def test_warnings_are_counted_by_kind_with_source_place_and_excerpt(data: Path, smollm2: Path) -> None:
    done = check(data, "-m", smollm2, "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    counts = {kind: (entry["findings"], entry["rows"]) for kind, entry in found["warnings"].items()}
    assert counts == {
        "duplicate_text": (1, 1),
        "contradictory_duplicate": (1, 1),
        "misplaced_keyword": (1, 1),
        "undeclared_tool": (1, 1),
        "invalid_arguments": (1, 1),
    }
    assert set(counts) <= set(KINDS)
    assert (found["rows"], found["refused"], found["warned"]) == (6, 0, 5)
    examples = {kind: entry["examples"][0] for kind, entry in found["warnings"].items()}
    assert all(set(example) == {"source", "message", "detail", "excerpt"} for example in examples.values())
    places = {kind: (example["source"], example["message"]) for kind, example in examples.items()}
    assert places == {
        "duplicate_text": (f"{data}:2", None),
        "contradictory_duplicate": (f"{data}:3", None),
        "misplaced_keyword": (f"{data}:4", 1),
        "undeclared_tool": (f"{data}:5", 1),
        "invalid_arguments": (f"{data}:6", 1),
    }
    assert f"{data}:1" in examples["duplicate_text"]["detail"]


def test_people_read_the_same_on_lines_that_cannot_steer_the_terminal(
    data: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = check(data, "-m", smollm2)
    assert done.exit_code == 0
    for kind in ("duplicate_text", "misplaced_keyword", "undeclared_tool"):
        assert f"{kind}: 1 row" in done.stdout
        assert KINDS[kind][:60] in done.stdout
    assert "--strict" in done.stdout
    assert "\x1b[31m" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_strict_fails_the_check_and_ignored_kinds_do_not_count(data: Path, smollm2: Path) -> None:
    assert check(data, "-m", smollm2, "--strict").exit_code == 1
    others = ["duplicate_text", "contradictory_duplicate", "misplaced_keyword", "undeclared_tool"]
    ignored = [word for kind in others for word in ("--ignore", kind)]
    done = check(data, "-m", smollm2, "--strict", "--format", "json", *ignored)
    assert done.exit_code == 1
    assert list(json.loads(done.stdout)["warnings"]) == ["invalid_arguments"]
    assert check(data, "-m", smollm2, "--strict", *ignored, "--ignore", "invalid_arguments").exit_code == 0


def test_warnings_change_neither_the_counts_nor_the_refusals(data: Path, tmp_path: Path, smollm2: Path) -> None:
    plain = written(tmp_path / "plain.jsonl", [row("Final Answer: no"), {"messages": []}])
    found = json.loads(check(plain, "-m", smollm2, "--format", "json").stdout)
    assert found["reasons"] == {"empty_conversation": 1}
    assert (found["warned"], found["warnings"]) == (0, {})
    assert check(plain, "-m", smollm2).exit_code == 1


def test_the_number_of_examples_is_the_users(data: Path, smollm2: Path) -> None:
    found = json.loads(check(data, "-m", smollm2, "--format", "json", "--show", 0).stdout)
    assert found["warnings"]
    assert not any(entry["examples"] for entry in found["warnings"].values())


def test_an_unknown_kind_is_one_line_that_names_the_nearest(data: Path, smollm2: Path) -> None:
    done = check(data, "-m", smollm2, "--ignore", "undeclared_tols")
    assert isinstance(done.exception, UserError)
    assert '"undeclared_tool"' in str(done.exception)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "warned"),
    [
        ("fireact_react.jsonl", {}),
        ("toolbench_react.jsonl", {"invalid_arguments": 23, "undeclared_tool": 4}),
        ("tau_airline_openai.jsonl", {}),
        ("tau2_openai.jsonl", {}),
    ],
)
def test_warnings_of_real_data_are_those_that_were_read_and_found_true(
    file: str, warned: dict[str, int], shared: Path
) -> None:
    from agentsft.data.read import read_rows
    from agentsft.lint.linter import Linter
    from agentsft.weigh.loss_scale import parse_loss_scale

    linter = Linter(parse_loss_scale("react"))
    kinds: dict[str, int] = {}
    for one in read_rows([str(shared / "data" / file)]):
        assert one.conversation is not None
        for kind in {finding.kind for finding in linter.row(one.conversation)}:
            kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds == warned


def test_fields_of_messages_that_nothing_reads_are_counted_and_said(tmp_path: Path, smollm2: Path) -> None:
    said = [{"role": "user", "content": "Hi", "time": 3}, {"role": "assistant", "content": "Yes.", "reasonning": "b"}]
    data = written(tmp_path / "rows.jsonl", [{"messages": said}, {"messages": said[:1] + said[1:]}, *ROWS[:1]])
    found = json.loads(check(data, "-m", smollm2, "--format", "json").stdout)
    assert found["unread_fields"] == {"time": 2, "reasonning": 2}
    shown = " ".join(check(data, "-m", smollm2, "--strict", "--ignore", "duplicate_text").output.split())
    assert "nothing reads" in shown
    assert "time 2, reasonning 2" in shown


def test_the_files_are_read_once_and_warnings_look_at_the_rows_before_they_are_folded(
    data: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentsft.data import read

    opened: list[str] = []
    original = read.read_records
    monkeypatch.setattr(read, "read_records", lambda source: opened.append(source.path) or original(source))
    found = json.loads(check(data, "-m", smollm2, "--format", "json").stdout)
    assert opened == [str(data)]
    assert found["warnings"]["undeclared_tool"]["rows"] == 1  # folded, no call would be left to look at


def test_names_of_the_users_own_are_a_flag(tmp_path: Path, smollm2: Path) -> None:
    talk = [{"by": "customer", "text": "Hi"}, {"by": "shop", "text": "Final Answer: yes"}]
    data = written(tmp_path / "rows.jsonl", [{"talk": talk}])
    assert json.loads(check(data, "-m", smollm2, "--format", "json").stdout)["reasons"] == {"unknown_format": 1}
    names = {"messages": "talk", "role": "by", "content": "text", "roles": {"user": "customer", "assistant": "shop"}}
    done = check(data, "-m", smollm2, "--format", "json", "--columns", json.dumps(names))
    assert (done.exit_code, json.loads(done.stdout)["turns"]) == (0, 1)
