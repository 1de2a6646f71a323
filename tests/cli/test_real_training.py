"""SmolLM2-135M on real ReAct conversations, on a CPU: it learns, and a resumed run repeats itself."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("tuner", "rate"), [("full", "5e-5"), ("lora", "1e-3")])
def test_real_conversations_are_learned_and_resuming_gives_the_same_losses(
    tuner: str, rate: str, shared: Path, smollm2: Path, tmp_path: Path
) -> None:
    rows = (shared / "data" / "toolbench_react.jsonl").read_text(encoding="utf-8").splitlines()
    short = sorted(rows, key=len)[:56]
    (tmp_path / "train.jsonl").write_text("\n".join(short[:48]), encoding="utf-8")
    (tmp_path / "eval.jsonl").write_text("\n".join(short[48:]), encoding="utf-8")

    def train(output: Path, *more: str) -> None:
        command = [
            "train",
            "--model",
            smollm2,
            "--data",
            tmp_path / "train.jsonl",
            "--eval-data",
            tmp_path / "eval.jsonl",
        ]
        command += ["--output", output, "--tuner", tuner, "--learning-rate", rate, "--loss-scale", "react"]
        command += ["--batch-size", "2", "--max-steps", "20", "--save-steps", "14", *more]
        done = CliRunner().invoke(app, [str(word) for word in command], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole)
    losses = [row["loss"] for row in lines(whole / "metrics.jsonl")]
    held_out = [row["eval_loss"] for row in lines(whole / "evaluations.jsonl")]
    assert statistics.mean(losses[-5:]) < 0.8 * statistics.mean(losses[:5])
    assert held_out[-1] < 0.8 * held_out[0]

    shutil.copytree(whole, cut)
    train(cut, "--resume")
    assert [row["loss"] for row in lines(cut / "metrics.jsonl")] == losses
    assert [row["eval_loss"] for row in lines(cut / "evaluations.jsonl")] == held_out
