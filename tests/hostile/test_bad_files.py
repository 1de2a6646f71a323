"""Files that cannot be used are one line that names them; of files that can, every good row is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsft.weigh import strategy
from tests.hostile.command import assert_one_line, run
from tests.hostile.files import MODELS, ODD_MODELS, ROW_BY_ROW, SLOW_PATTERNS, TABLES, WHOLE
from tests.hostile.rows import GOOD


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_at_fault_is_one_line_that_names_it(name: str, tmp_path: Path, smollm2: Path) -> None:
    file, content, says = WHOLE[name]
    path = written(tmp_path, file, content)
    path = path.parent if "folder" in file else path
    shown = str(path) if path.name.isprintable() else repr(str(path))
    assert_one_line(run("check", path, "-m", smollm2), f"agentsft: {shown}", says)


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_a_file_with_faults_keeps_its_good_rows(name: str, tmp_path: Path, smollm2: Path) -> None:
    file, content, reasons = ROW_BY_ROW[name]
    path = written(tmp_path, file, content)
    outcome = run("check", path, "-m", smollm2, "--format", "json")
    found = json.loads(outcome.out)
    bad = [reason for reason in reasons if reason]
    assert (outcome.code, outcome.err) == (int(bool(bad)), "")
    assert (found["rows"], found["refused"]) == (len(reasons), len(bad))
    assert found["reasons"] == {reason: bad.count(reason) for reason in bad}


@pytest.mark.parametrize("name", TABLES)
def test_a_bad_table_of_weights_is_one_line_that_names_it(name: str, tmp_path: Path, smollm2: Path) -> None:
    content, says = TABLES[name]
    data, table = written(tmp_path, "a.jsonl", GOOD), written(tmp_path, "t.json", content)
    assert_one_line(run("check", data, "-m", smollm2, "--loss-scale", table), "t.json", says)


@pytest.mark.parametrize("field", ["regex", "regex_at_start"])
@pytest.mark.parametrize("pattern", SLOW_PATTERNS)
def test_a_pattern_that_backtracks_without_end_is_stopped(
    pattern: str, field: str, tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "PATTERN_SECONDS", 0.2)
    data = written(tmp_path, "a.jsonl", GOOD.replace(b"It is 4.", b"a" * 5000 + b"!"))
    table = written(tmp_path, "t.json", json.dumps({field: {pattern: 2}}).encode())
    started = time.monotonic()
    outcome = run("check", data, "-m", smollm2, "--loss-scale", table)
    assert time.monotonic() - started < 5
    if outcome.code == 2:
        assert_one_line(outcome, "t.json", "searched one response for more than 0.2 s")
    else:  # the library finds some of these in no time
        assert outcome.code == 0


def test_a_pattern_with_many_slow_matches_is_stopped_too(
    tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "PATTERN_SECONDS", 0.3)
    slow = b"a" * 24 + b"! "  # not slow enough by itself
    data = written(tmp_path, "a.jsonl", GOOD.replace(b"It is 4.", slow * 200))
    table = written(tmp_path, "t.json", json.dumps({"regex": {"(a|aa)+$|!": 2}}).encode())
    started = time.monotonic()
    assert_one_line(run("check", data, "-m", smollm2, "--loss-scale", table), "searched one response for more than")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_model_folder_is_one_line(name: str, tmp_path: Path, smollm2: Path) -> None:
    file, content = MODELS[name]
    folder = tmp_path / "model"
    shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_bytes(content)
    data = written(tmp_path, "a.jsonl", GOOD)
    assert_one_line(run("check", data, "-m", folder), str(folder), "tokenizer")


@pytest.mark.parametrize("name", ODD_MODELS)
def test_what_a_model_folder_says_beside_its_tokenizer_may_be_nonsense(
    name: str, tmp_path: Path, smollm2: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    file, content = ODD_MODELS[name]
    (folder / file).write_bytes(content)
    outcome = run("check", written(tmp_path, "a.jsonl", GOOD), "-m", folder, "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["turns"] == 1


def test_a_whole_process_names_bad_rows_without_a_traceback(tmp_path: Path, smollm2: Path) -> None:
    data = written(tmp_path, "a.jsonl", GOOD + b"\n{\n" + GOOD + b"\n" + b'{"a": ' + b"[" * 100_000 + b"\n")
    command = [sys.executable, "-m", "agentsft", "check", str(data), "-m", str(smollm2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
    assert "malformed_json: 2 rows" in done.stdout
    shown = " ".join(done.stdout.split())
    assert f"{data}:2: The line is not one JSON value" in shown
    assert f"{data}:4: The line is not one JSON value: nested too deeply" in shown
