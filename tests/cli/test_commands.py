"""The commands as their users call them, in processes of their own where the exit code or the import counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.errors import UserError

RUNNER = CliRunner()
ROWS = [
    {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "Thought: easy\nFinal Answer: 4"},
        ]
    },
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "usr", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {
        "messages": [
            {"role": "user", "content": "3+3?"},
            {"role": "assistant", "content": "Action: add\nAction Input: 3, 3"},
            {"role": "user", "content": "Observation: 6"},
            {"role": "assistant", "content": "Final Answer: 6"},
        ]
    },
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join([*lines, '{"messages": [', lines[0]]) + "\n", encoding="utf-8")
    return path


def run(*arguments: object) -> Any:
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def in_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentsft", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from agentsft.cli.app import main; sys.argv = ['agentsft', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "preview" in done.stdout


def test_preview_json_keeps_its_promise(data: Path, smollm2: Path) -> None:
    done = run("preview", data, "--model", smollm2, "--loss-scale", "react", "-n", 6, "--format", "json")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["row"] for row in rows] == list(range(6))
    assert [row["source"].rsplit(":", 1)[1] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    reasons = [row["refused"] and row["refused"]["reason"] for row in rows]
    assert reasons == [None, "no_assistant", "unknown_role", None, "malformed_json", None]
    for row in rows:
        if row["refused"]:
            assert set(row["refused"]) == {"reason", "message", "detail"}
            assert row["turns"] == row["sequences"] == []
            continue
        for turn in row["turns"]:
            assert "".join(span["text"] for span in turn["spans"]) == turn["response"]
            assert turn["suffix"] == "<|im_end|>"
        leaf = row["turns"][-1]
        (sequence,) = row["sequences"]
        text = "".join(segment["text"] for segment in sequence["segments"])
        assert text == leaf["prompt"] + leaf["response"] + leaf["suffix"]
        lengths = {len(sequence[key]) for key in ("input_ids", "labels", "loss_scale", "position_ids")}
        assert lengths == {row["tokens"]["tree"]}
        assert row["tokens"]["trained"] == sum(label != -100 for label in sequence["labels"])
    weights = {span["label"]: span["weight"] for turn in rows[3]["turns"] for span in turn["spans"]}
    assert weights == {"action": 2.0, "action_input": 2.0, "final_answer": 1.0}


def test_preview_text_shows_every_token_and_counts_what_is_trained(data: Path, smollm2: Path) -> None:
    done = run("preview", data, "-m", smollm2, "--row", 3, "--tokens")
    assert done.exit_code == 0, done.output
    shown = done.stdout
    as_json = json.loads(run("preview", data, "-m", smollm2, "--row", 3, "--format", "json").stdout)
    ids = as_json["sequences"][0]["input_ids"]
    rows = [line.split() for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[1]) for row in rows[: len(ids)]] == ids
    assert f"{as_json['tokens']['trained']} of {len(ids)} tokens trained" in shown


def test_preview_html_is_one_page_without_links(data: Path, smollm2: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("preview", data, "-m", smollm2, "--format", "html", "--out", page)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "Final" in text
    assert "://" not in text


def test_text_from_data_cannot_steer_the_terminal(tmp_path: Path, smollm2: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a\x1b[2Jb\x07"}, {"role": "assistant", "content": "[red]x[/red]"}]}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for extra in ([], ["--tokens"]):
        done = run("preview", path, "-m", smollm2, *extra)
        assert done.exit_code == 0, done.output
        assert "\x1b[2J" not in done.stdout
        assert "\x07" not in done.stdout
        assert "␛" in done.stdout
    assert "[red]x[/red]" in run("preview", path, "-m", smollm2).stdout.replace("│", "")


def test_check_counts_all_rows_and_exits_with_1_where_any_is_refused(data: Path, smollm2: Path, tmp_path: Path) -> None:
    done = run("check", data, "-m", smollm2, "--format", "json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["rows"], found["refused"], found["turns"]) == (6, 3, 4)
    assert found["reasons"] == {"no_assistant": 1, "unknown_role": 1, "malformed_json": 1}
    assert all(f"{data}:" in line for lines in found["examples"].values() for line in lines)
    text = run("check", data, "-m", smollm2)
    assert text.exit_code == 1
    assert "unknown_role: 1 row" in text.stdout

    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    assert run("check", good, "-m", smollm2).exit_code == 0


def test_strategies_prints_every_name_with_its_weights() -> None:
    from agentsft.weigh.loss_scale import BASES, list_strategies

    done = run("strategies")
    assert done.exit_code == 0, done.output
    for name in [*BASES, *(strategy.name for strategy in list_strategies())]:
        assert name in done.stdout
    assert "<tool_call>.+?</tool_call>" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "DATA", "-m", "MODEL", "--loss-scale", "reakt"], ["'reakt'", '"react"']),
        (["check", "DATA", "-m", "MODEL", "--loss-scale", "all", "--mask-history"], ["mask_history", "all"]),
        (["check", "missing.jsonl", "-m", "MODEL"], ["missing.jsonl"]),
        (["check", "DATA", "-m", "nowhere/at/all"], ["nowhere/at/all"]),
        (["check", "DATA"], ["--model"]),
        (["check", "DATA", "-m", "MODEL", "--chat-template", "gone.jinja"], ["gone.jinja"]),
        (["check", "DATA", "-m", "MODEL", "--template-kwargs", "{"], ["template_kwargs", "JSON"]),
        (["check", "DATA", "-m", "MODEL", "--stop-token", "<nope>"], ["<nope>"]),
        (["preview", "DATA", "-m", "MODEL", "--format", "pdf"], ["text, json, html"]),
        (["train", "RECIPE"], ["lerning_rate", '"learning_rate"']),
        (["train", "gone.yaml"], ["gone.yaml"]),
        (["train", "--model", "MODEL"], ["--data"]),
        (["train", "--model", "MODEL", "--data", "DATA", "--batch-size", "0"], ["batch_size", "at least 1"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str], words: list[str], data: Path, smollm2: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lerning_rate: 1e-4\n", encoding="utf-8")
    names = {"DATA": str(data), "MODEL": str(smollm2), "RECIPE": str(recipe)}
    done = run(*(names.get(argument, argument) for argument in arguments))
    assert isinstance(done.exception, UserError), done.output
    text = str(done.exception)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_user_error_exits_with_2_and_one_line_and_debug_shows_the_traceback() -> None:
    done = in_a_process("train", "gone.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("agentsft: gone.yaml")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in in_a_process("--debug", "train", "gone.yaml").stderr
