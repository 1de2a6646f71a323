"""Recipes and flags that cannot work are one line that names the setting, before anything is loaded or written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostile.command import assert_one_line, run
from tests.hostile.recipes import RECIPES, SETTINGS
from tests.hostile.rows import GOOD


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_bytes(GOOD + b"\n")


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_one_line_that_names_it(name: str) -> None:
    content, says = RECIPES[name]
    Path("bad.yaml").write_bytes(content)
    started = time.monotonic()
    assert_one_line(run("train", "bad.yaml"), "bad.yaml", says)
    assert time.monotonic() - started < 10
    assert sorted(path.name for path in Path().iterdir()) == ["bad.yaml", "rows.jsonl"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_bad_setting_is_one_line_that_names_it(name: str, smollm2: Path) -> None:
    arguments, says = SETTINGS[name]
    given = arguments if "--model" in arguments else [*arguments, "--model", str(smollm2)]
    given = given if "--data" in arguments else [*given, "--data", "rows.jsonl"]
    assert_one_line(run("train", *given), says)
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("command", ["check", "preview"])
def test_commands_without_data_or_with_a_wrong_form_are_one_line(command: str, smollm2: Path) -> None:
    assert_one_line(run(command), "data")
    assert_one_line(run(command, "rows.jsonl"), "--model")
    assert_one_line(run(command, "rows.jsonl", "-m", smollm2, "--format", "xml"), "--format")
    assert_one_line(run(command, "gone", "-m", smollm2), "gone")
    assert_one_line(run("chekc"), "No such command")


def test_a_process_ends_with_code_2_and_one_line() -> None:
    Path("bad.yaml").write_bytes(RECIPES["an alias bomb"][0])
    command = [sys.executable, "-m", "agentsft", "train", "bad.yaml"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"agentsft: bad.yaml: its aliases stand for more than")
    assert done.stderr.count(b"\n") == 1
