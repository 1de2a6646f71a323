"""A resumed run repeats an uninterrupted one, from any of its steps, and never one that it should not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agentsft.errors import UserError
from agentsft.train.checkpoint import all_checkpoints, fault
from tests.train.test_invariance import rows
from tests.train.test_run import config, run, trees
from tests.train.tiny import saved_model

STEPS = 7
"""Three an epoch of five conversations."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model("llama", tmp_path_factory.mktemp("llama"))


def weights(output: Path) -> dict[str, torch.Tensor]:
    [file] = output.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.parametrize(
    "tuner",
    [
        {},
        {"tuner": "lora", "lora_rank": 4, "lora_dropout": 0.3},
        {"tuner": "dora", "lora_rank": 4, "lora_dropout": 0.3},
    ],
    ids=["full", "lora with dropout", "dora with dropout"],
)
def test_from_any_step_a_resumed_run_is_bit_identical(llama: str, tmp_path: Path, tuner: dict[str, Any]) -> None:
    settings = {"max_steps": STEPS, "save_steps": 1, "eval_steps": 2, "micro_batch_tokens": 32, **tuner}
    whole = tmp_path / "whole"
    run(config(llama, whole, **settings))
    assert max(row["micro_batches"] for row in rows(whole)) > 1
    assert {int(row["epoch"]) for row in rows(whole)} >= {0, 1, 2}
    for step in range(1, STEPS):
        cut = tmp_path / f"cut-{step}"
        cut.mkdir()
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            shutil.copy(whole / file, cut)
        shutil.copytree(whole / f"checkpoint-{step}", cut / f"checkpoint-{step}")
        _, recorder = run(config(llama, cut, **settings, resume=True))
        assert recorder.summary is not None
        assert recorder.summary.start_step == step
        assert rows(cut) == rows(whole), step
        assert rows(cut, "evaluations") == rows(whole, "evaluations"), step
        one, two = weights(whole), weights(cut)
        assert all(torch.equal(one[key], two[key]) for key in one), step
        for later in range(step + 1, STEPS + 1):
            ours, theirs = (
                torch.load(folder / f"checkpoint-{later}" / "optimizer.pt", weights_only=True)["state"]
                for folder in (cut, whole)
            )
            assert all(torch.equal(ours[i][name], theirs[i][name]) for i in theirs for name in theirs[i]), step


def test_dropout_changes_the_losses_that_are_repeated(llama: str, tmp_path: Path) -> None:
    settings = {"max_steps": 2, "tuner": "lora", "lora_rank": 4}
    run(config(llama, tmp_path / "with", **settings, lora_dropout=0.3))
    run(config(llama, tmp_path / "without", **settings))
    assert rows(tmp_path / "with")[1]["loss"] != rows(tmp_path / "without")[1]["loss"]


def test_other_micro_batches_go_on_with_the_same_batches_and_losses(llama: str, tmp_path: Path) -> None:
    settings = {"max_steps": STEPS, "save_steps": 3, "learning_rate": 1e-3}
    run(config(llama, tmp_path / "whole", **settings, micro_batch_tokens=256))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    _, recorder = run(config(llama, tmp_path / "cut", **settings, micro_batch_tokens=24, layout="split", resume=True))
    assert any("micro_batch_tokens (256 there, 24 now)" in note for note in recorder.notes)
    pairs = list(zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True))
    assert any(one["micro_batches"] != two["micro_batches"] for one, two in pairs)
    for one, two in pairs:
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
        assert [one[key] for key in ("step", "epoch", "num_items_in_batch", "tokens", "learning_rate")] == [
            two[key] for key in ("step", "epoch", "num_items_in_batch", "tokens", "learning_rate")
        ]


def test_a_run_from_an_older_checkpoint_sets_the_later_ones_aside(llama: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(config(llama, out, max_steps=6, save_steps=2))
    before = {path.name: (path / "model.safetensors").read_bytes() for path in all_checkpoints(out)}
    older = {"resume_from_checkpoint": str(out / "checkpoint-2"), "learning_rate": 1e-3}
    _, recorder = run(config(llama, out, max_steps=3, **older))
    notes = "\n".join(recorder.notes)
    assert "checkpoint-4, checkpoint-6: not on the way from" in notes
    assert "learning_rate (0.01 there, 0.001 now)" in notes
    assert [path.name for path in all_checkpoints(out)] == ["checkpoint-2"]
    for name in ("checkpoint-4", "checkpoint-6"):  # nothing is thrown away
        assert (out / f"{name}.abandoned" / "model.safetensors").read_bytes() == before[name]
        assert fault(out / f"{name}.abandoned") is None
    _, recorder = run(config(llama, out, max_steps=5, save_steps=4, resume=True, learning_rate=1e-3))
    assert recorder.summary is not None
    assert recorder.summary.start_step == 2
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4, 5]
    run(config(llama, out, max_steps=3, **older))
    assert (out / "checkpoint-4.abandoned-2").is_dir()


def test_a_run_from_a_checkpoint_elsewhere_does_not_mix_with_those_that_are_there(llama: str, tmp_path: Path) -> None:
    run(config(llama, tmp_path / "one", max_steps=4, save_steps=4))
    run(config(llama, tmp_path / "two", max_steps=3, save_steps=3))
    from_one = str(tmp_path / "one" / "checkpoint-4")
    run(config(llama, tmp_path / "two", max_steps=5, resume_from_checkpoint=from_one))
    assert all_checkpoints(tmp_path / "two") == []
    assert (tmp_path / "two" / "checkpoint-3.abandoned").is_dir()
    assert [path.name for path in all_checkpoints(tmp_path / "one")] == ["checkpoint-4"]


def test_another_run_is_refused_with_all_that_changed_and_what_may(llama: str, tmp_path: Path) -> None:
    run(config(llama, tmp_path, max_steps=2, save_steps=2))
    changed = {"batch_size": 3, "seed": 7, "normalize": "weights", "loss_scale": "react", "mask_history": True}
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        run(config(llama, tmp_path, resume=True, **changed, learning_rate=1.0), data=trees(4))
    message = str(caught.value)
    for part in (
        "checkpoint-2: this checkpoint belongs to another run",
        "batch_size (2 there, 3 now)",
        "seed (42 there, 7 now)",
        "normalize (items there, weights now)",
        "the training data (loss_scale (default there, react now); mask_history (False there, True now))",
        "every other setting may be overridden, such as learning_rate",
        "number of processes",
    ):
        assert part in message
    assert "learning_rate (" not in message
    with pytest.raises(UserError, match=r"changed: the training data \(other files, tokenizer or template\)"):
        run(config(llama, tmp_path, resume=True), data=trees(4))
    # The same data by another name is the same data.
    run(config(llama, tmp_path, resume=True, max_steps=3, data=["renamed.jsonl"]))
    assert len(rows(tmp_path)) == 3


def test_a_run_with_the_same_settings_has_nothing_to_say_about_them(llama: str, tmp_path: Path) -> None:
    for _ in range(2):
        _, recorder = run(config(llama, tmp_path, max_steps=2, save_steps=1, resume=True, save_total_limit=2))
        assert recorder.notes == []
