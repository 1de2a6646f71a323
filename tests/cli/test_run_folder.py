"""What a run leaves beside the model for people: card, run.json, a tracker's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from agentsft.errors import UserError
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


def test_the_best_model_is_kept_and_a_run_that_grows_no_better_ends_early_also_when_resumed(
    model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    values = settings(model, data, out, save_steps=1, eval_steps=1, num_train_epochs=4, learning_rate="10.0")
    path = recipe(tmp_path / "r.yaml", **values, early_stopping_patience=2)
    shown = train(path)
    rows = [json.loads(line) for line in (out / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["eval_loss"] for row in rows]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(rows) - 1 == best + 2
    assert len(rows) < 12
    assert "no better" in shown
    assert AutoModelForCausalLM.from_pretrained(out / "best").config.vocab_size
    assert "no better" in train(path, "--resume")
    assert len((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == rows[-1]["step"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"metric_for_best_model": "eval_los", "eval_share": 0.2}, "Did you mean"),
        ({"metric_for_best_model": "eval_valid_call", "eval_share": 0.2}, "eval_generate"),
        ({"early_stopping_patience": 2, "eval_share": 0.0}, "held out"),
    ],
)
def test_a_figure_that_no_evaluation_will_have_is_said_before_anything_is_read(
    more: dict[str, Any], words: str, model: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        train(recipe(tmp_path / "r.yaml", **settings(model, data, tmp_path / "out", **more)))
    assert not (tmp_path / "out").exists()
