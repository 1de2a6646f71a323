"""`agentsft plan` reads rows and the model's configuration, and no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.config import TrainConfig
from agentsft.encode.cache import prepare_cached
from agentsft.encode.load import load_preparer
from tests.encode.test_parallel import write_rows


@pytest.fixture
def recipe(tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTSFT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    for file in smollm2.iterdir():
        if not file.name.endswith(".safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    data = write_rows(tmp_path / "rows.jsonl", 60)
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {folder}\ndata: {data}\nbatch_size: 8\nnum_train_epochs: 3\n", encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.output


def test_a_plan_says_what_the_run_will_do_without_weights_or_output(recipe: Path) -> None:
    before = set(recipe.parent.iterdir())
    code, said = run(recipe, "--price", "2.50", "--format", "json", "--gpus", "2")
    made = json.loads(said)
    trained = made["rows"]["all"] - made["rows"]["refused"]
    assert code == 0
    assert made["rows"]["all"] == made["rows"]["looked_at"] == 60
    assert made["work"]["steps"] == 3 * -(-trained // 8)
    assert made["cost"] == pytest.approx([2 * 2.5 * seconds / 3600 for seconds in made["seconds"]])
    parts = {name: size for name, size in made["memory_gib"].items() if name not in ("total", "gpu")}
    assert sum(parts.values()) == pytest.approx(made["memory_gib"]["total"], abs=0.05)
    assert made["fits"]
    assert set(recipe.parent.iterdir()) == before


def test_a_sample_stands_for_all_rows_and_prepared_rows_for_themselves(recipe: Path) -> None:
    _, said = run(recipe, "--sample", "20", "--format", "json")
    sampled = json.loads(said)
    assert sampled["rows"]["looked_at"] == 20
    assert sampled["work"]["conversations"] == round(60 * (20 - sampled["rows"]["refused"]) / 20)
    settings: dict[str, Any] = {"model": str(recipe.parent / "model"), "data": [str(recipe.parent / "rows.jsonl")]}
    config = TrainConfig(**settings)
    prepare_cached(config, load_preparer(config))
    _, said = run(recipe, "--sample", "20", "--format", "json")
    assert json.loads(said)["rows"]["looked_at"] == 60


def test_what_does_not_fit_exits_with_1_and_says_what_would(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = run(recipe, "--gpu", "L40S", "--micro-batch-tokens", "2000000", "--batch-size", "60")
    assert code == 0, "packs are no longer than the rows need"
    from dataclasses import replace

    from agentsft.plan import gpus

    monkeypatch.setitem(gpus.GPUS, "L40S", replace(gpus.GPUS["L40S"], memory=4.0))
    code, said = run(recipe, "--gpu", "L40S")
    assert code == 1
    assert "does not fit into 4 GiB" in said
    assert "micro_batch_tokens: " in said or "FSDP2" in said


def test_a_weight_counts_rows_as_often_as_an_epoch_has_them(recipe: Path) -> None:
    data = recipe.parent / "rows.jsonl"
    other = write_rows(recipe.parent / "other.jsonl", 40)
    text = recipe.read_text(encoding="utf-8").replace(f"data: {data}", f"data: [{{path: {data}, weight: 2}}, {other}]")
    recipe.write_text(text, encoding="utf-8")
    _, said = run(recipe, "--format", "json", "--sample", "1000")
    plain = [sum(k % 7 != 0 and k % 11 != 0 for k in range(n)) for n in (60, 40)]
    assert json.loads(said)["work"]["conversations"] == 2 * plain[0] + plain[1]
