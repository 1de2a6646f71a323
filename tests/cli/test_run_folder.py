"""What a run leaves beside the model for people: card, run.json, a tracker's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_train import data, model, recipe, settings, train

__all__ = ["data", "model"]


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_run_leaves_its_card_and_its_tracker_goes_on_after_a_resume(
    tuner: str, model: Path, data: Path, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    out = tmp_path / tuner
    path = recipe(
        tmp_path / "r.yaml", **settings(model, data, out, save_steps=3, tuner=tuner, report_to=["tensorboard"])
    )
    train(path)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "agentsft" in card
    assert "from_pretrained" in card
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))
    shutil.rmtree(out / "checkpoint-6")
    train(path, "--resume")
    events = accumulator.EventAccumulator(str(out / "runs"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
