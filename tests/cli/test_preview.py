"""`agentsft preview` as its user calls it: the page as a file, and one strategy against another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.errors import UserError

STEP = "Thought: easy\nAction: add\nAction Input: 3, 3"
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "3+3?"},
            {"role": "assistant", "content": STEP},
            {"role": "user", "content": "Observation: 6"},
            {"role": "assistant", "content": "Final Answer: 6"},
        ]
    },
    {"messages": [{"role": "usr", "content": "Hi"}]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["preview", *[str(argument) for argument in arguments]])


def rows_of(done: Any) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def test_the_page_is_one_file_that_holds_no_text_of_a_row_as_markup(data: Path, smollm2: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    assert run(data, "-m", smollm2, "--format", "html", "--out", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "://" not in text
    assert "3+3?" not in text
    assert len(re.findall('<script type="text/plain" class="row">', text)) == len(ROWS)
    assert run(data, "-m", smollm2, "--format", "html").stdout == text


def test_a_comparison_adds_to_the_json_and_changes_nothing_in_it(data: Path, smollm2: Path) -> None:
    alone = rows_of(run(data, "-m", smollm2, "--format", "json"))
    both = rows_of(run(data, "-m", smollm2, "--format", "json", "--compare-loss-scale", "react"))
    found = [row.pop("compare") for row in both]
    assert both == alone
    assert [bool(one["refused"]) for one in found] == [False, True, False]
    assert {one["loss_scale"] for one in found} == {"react"}
    assert found[2]["changed"] == 0
    assert found[2]["spans"] == []
    turn = alone[0]["turns"][0]
    assert "".join(span["text"] for span in found[0]["spans"]) == "Action: add\nAction Input: 3, 3"
    for span in found[0]["spans"]:
        assert (turn["response"] + turn["suffix"])[span["start"] : span["end"]] == span["text"]
        assert (span["message"], span["weight"], span["compared_weight"]) == (1, 1.0, 2.0)


def test_a_comparison_in_the_terminal_writes_both_weights_where_they_differ(data: Path, smollm2: Path) -> None:
    done = run(data, "-m", smollm2, "--compare-loss-scale", "react")
    assert done.exit_code == 0, done.output
    shown = done.stdout
    assert shown.count("1→2") == 1
    assert "1→2Action: add" in shown
    assert "tokens as before" in shown
    assert "Final Answer: 6" not in shown
    assert "refused: unknown_role" in shown
    assert shown.count("unknown_role") == 1
    (made, *_) = rows_of(run(data, "-m", smollm2, "--format", "json", "--compare-loss-scale", "react"))
    assert f"{made['compare']['changed']} of {made['tokens']['trained']} tokens change their weight" in shown
    listed = run(data, "-m", smollm2, "--compare-loss-scale", "react", "--tokens").stdout
    ids = [line.split()[2] for line in listed.splitlines() if re.match(r" *0 +\d+ +\d+ ", line)]
    assert len(ids) == made["compare"]["changed"]
    assert set(map(int, ids)) <= set(made["sequences"][0]["input_ids"])


def test_weights_that_no_strategy_changes_are_said_to_be_the_same(data: Path, smollm2: Path) -> None:
    done = run(data, "-m", smollm2, "--loss-scale", "react", "--compare-loss-scale", "react")
    assert done.exit_code == 0, done.output
    assert "→2" not in done.stdout
    assert "0 of " in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--compare-loss-scale", "reakt"], ["'reakt'", '"react"']),
        (["--compare-loss-scale", "all", "--mask-history"], ["mask_history", "all"]),
        (["--out", "page.html"], ["--out", "html"]),
    ],
)
def test_a_mistake_is_named_before_a_row_is_shown(
    flags: list[str], words: list[str], data: Path, smollm2: Path
) -> None:
    done = run(data, "-m", smollm2, *flags)
    assert isinstance(done.exception, UserError), done.output
    assert done.stdout == ""
    for word in words:
        assert word in str(done.exception)
