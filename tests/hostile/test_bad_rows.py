"""Every bad row is refused in one line that says where and why, is counted, and never costs a good one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import assets
from tests.hostile.command import assert_one_line, run
from tests.hostile.rows import BAD_ROWS, GOOD

MODELS = sorted(BAD_ROWS)
CASES = [(model, number) for model in MODELS for number in range(len(BAD_ROWS[model]))]


@dataclass(frozen=True)
class Found:
    """What `check` and the ledger of `train` say of one file: all bad rows, a good one before each and at the end."""

    path: Path
    checked: dict[str, Any]
    ledger: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    folder = tmp_path_factory.mktemp("hostile")
    return {model: _found(model, folder) for model in MODELS}


def _found(model: str, folder: Path) -> Found:
    path, output = folder / f"{model}.jsonl", folder / model
    path.write_bytes(b"\n".join(line for bad in BAD_ROWS[model] for line in (GOOD, bad.line)) + b"\n" + GOOD)
    tokenizer = assets.smollm2_folder() if model == "smollm2" else assets.qwen_tokenizer().name_or_path
    checked = run("check", path, "-m", tokenizer, "--format", "json", "--show", 10_000)
    assert (checked.code, checked.err) == (1, "")
    trained = run("train", "-m", tokenizer, "-d", path, "--output", output, "--max-lost", 0.1, "--no-cache")
    assert_one_line(trained, "max_lost 0.1", "ledger.jsonl")
    entries = map(json.loads, (output / "ledger.jsonl").read_text(encoding="utf-8").splitlines())
    return Found(path, json.loads(checked.out), {entry["source"]: entry for entry in entries})


def test_there_are_many_bad_rows_and_each_is_another() -> None:
    rows = [bad for model in MODELS for bad in BAD_ROWS[model]]
    assert len({bad.line for bad in rows}) == len({bad.name for bad in rows}) == len(rows) >= 200


@pytest.mark.parametrize("model", MODELS)
def test_every_good_row_is_proven_and_every_bad_one_counted(model: str, found: dict[str, Found]) -> None:
    checked, bad = found[model].checked, len(BAD_ROWS[model])
    assert (checked["rows"], checked["refused"], checked["turns"]) == (2 * bad + 1, bad, bad + 1)
    assert bad == len(found[model].ledger) == sum(checked["reasons"].values())


@pytest.mark.parametrize(("model", "number"), CASES, ids=[BAD_ROWS[model][number].name for model, number in CASES])
def test_a_bad_row_is_refused_with_its_place_and_reason(model: str, number: int, found: dict[str, Found]) -> None:
    bad, source = BAD_ROWS[model][number], f"{found[model].path}:{2 * number + 2}"
    entry = found[model].ledger[source]
    detail = entry["detail"]
    assert (entry["reason"], entry["message"], entry["refused"]) == (bad.reason, bad.message, True), detail
    assert bad.says in detail
    assert detail.endswith(".")
    assert 20 < len(detail) < 600
    assert detail.isprintable()
    where = source + ":" + ("" if bad.message is None else f" message {bad.message}:")
    assert f"{where} {detail}" in found[model].checked["examples"][bad.reason]
