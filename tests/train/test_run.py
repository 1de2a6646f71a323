from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentsft.config import TrainConfig, build
from agentsft.errors import UserError
from agentsft.recipe import load_recipe
from agentsft.train.reporter import Silent, Summary, TrainResult
from agentsft.train.run import train
from agentsft.types import TokenTree
from tests.batch.trees import random_tree
from tests.train.reference import reference
from tests.train.test_invariance import rows
from tests.train.tiny import examples, saved_model, tiny_model, tiny_tokenizer


class Recorder(Silent):
    """Keeps what it is told; `stop_at` ends the run after that step as a crash would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.notes, self.saved, self.evals = stop_at, [], [], []
        self.summary: Summary | None = None

    def on_start(self, summary: Summary) -> None:
        self.summary = summary

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.stop_at:
            raise KeyboardInterrupt

    def on_eval(self, row: dict[str, Any]) -> None:
        self.evals.append(row)

    def on_save(self, path: str) -> None:
        self.saved.append(path)

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def trees(n: int = 5) -> list[TokenTree]:
    random = np.random.default_rng(11)
    return [random_tree(random, int(size)) for size in random.integers(10, 50, n)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model("llama", tmp_path_factory.mktemp("llama"))


def config(model: str, output: Path, **settings: Any) -> TrainConfig:
    defaults = {"batch_size": 2, "learning_rate": 1e-2, "micro_batch_tokens": 64}
    return TrainConfig(model=model, output=str(output), **{**defaults, **settings})


def run(
    config: TrainConfig, stop_at: int | None = None, data: list[TokenTree] | None = None
) -> tuple[TrainResult, Recorder]:
    recorder = Recorder(stop_at)
    result = train(config, tiny_tokenizer(), examples(trees() if data is None else data), examples(trees(2)), recorder)
    return result, recorder


@pytest.mark.parametrize(
    "tuner",
    [
        {"tuner": "full"},
        {"tuner": "lora", "lora_dropout": 0.3, "lora_modules_to_save": ["lm_head"]},
        {"tuner": "dora", "lora_dropout": 0.3, "weight_decay": 0.1},
    ],
    ids=lambda settings: settings["tuner"],
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(llama: str, tmp_path: Path, tuner: dict) -> None:
    settings = {"num_train_epochs": 2.5, "save_steps": 2, "eval_steps": 3, **tuner}  # 3 steps an epoch, 8 in all
    whole, _ = run(config(llama, tmp_path / "whole", **settings))
    for stop in (6, 3):  # after a checkpoint, then again between the checkpoints
        with pytest.raises(KeyboardInterrupt):
            run(config(llama, tmp_path / "cut", **settings, resume=stop == 3), stop_at=5 if stop == 3 else 3)
    cut, recorder = run(config(llama, tmp_path / "cut", **settings, resume=True))
    assert recorder.summary is not None
    assert recorder.summary.start_step == 4
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert rows(tmp_path / "cut", "evaluations") == rows(tmp_path / "whole", "evaluations")
    assert [row["step"] for row in rows(tmp_path / "cut")] == list(range(1, 9))
    assert (cut.loss, cut.eval_loss, cut.initial_eval_loss) == (whole.loss, whole.eval_loss, whole.initial_eval_loss)
    name = "model.safetensors" if tuner["tuner"] == "full" else "adapter_model.safetensors"
    one, two = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_training_learns_and_leaves_what_from_pretrained_loads(llama: str, tmp_path: Path) -> None:
    result, recorder = run(config(llama, tmp_path, max_steps=40, learning_rate=None, warmup_steps=0))
    assert result.initial_eval_loss is not None
    assert result.eval_loss is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert result.eval_loss == pytest.approx(reference(model, trees(2))[0], rel=1e-5)
    assert result.initial_eval_loss == pytest.approx(reference(tiny_model("llama"), trees(2))[0], rel=1e-5)
    assert result.eval_loss < result.initial_eval_loss
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tiny_tokenizer().chat_template
    assert build(TrainConfig, load_recipe(tmp_path / "recipe.yaml")).learning_rate == 2e-5
    assert recorder.summary is not None
    assert recorder.summary.steps == 40
    assert recorder.summary.conversations == 5
    assert recorder.summary.tokens == sum(map(len, trees()))
    assert recorder.summary.saved_tokens > 0


def test_a_step_row_holds_what_was_promised(llama: str, tmp_path: Path) -> None:
    run(config(llama, tmp_path, num_train_epochs=1, learning_rate=0.0))
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    promised = "step epoch loss learning_rate grad_norm num_items_in_batch tokens trained_tokens tokens_per_second"
    assert set((promised + " seconds mfu loss_by_label").split()) <= set(steps[0])
    assert [row["epoch"] for row in steps] == [0.4, 0.8, 1.0]
    assert sum(row["num_items_in_batch"] for row in steps) == sum(len(tree.source) for tree in trees())
    assert sum(row["tokens"] for row in steps) == sum(map(len, trees()))
    whole = sum(row["loss"] * row["num_items_in_batch"] for row in steps)
    expected = reference(tiny_model("llama"), trees())[0] * sum(row["num_items_in_batch"] for row in steps)
    assert whole == pytest.approx(expected, rel=1e-5)
    assert steps[0]["mfu"] is None


def test_a_step_without_targets_is_a_counted_no_op(llama: str, tmp_path: Path) -> None:
    nothing = [random_tree(np.random.default_rng(n), 20, targets=0) for n in range(2)]
    result, _ = run(config(llama, tmp_path, num_train_epochs=1, weight_decay=0.5), data=nothing)
    [row] = rows(tmp_path)
    assert (row["loss"], row["grad_norm"], row["num_items_in_batch"]) == (None, None, 0)
    assert row["skipped"] == "no trained tokens"
    assert (result.skipped_steps, result.loss) == (1, None)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (llama, tmp_path))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_non_finite_gradient_is_skipped_and_counted(tmp_path: Path) -> None:
    model = tiny_model("llama")
    used = sorted({int(token) for tree in trees(2) for token in tree.input_ids})
    with torch.no_grad():
        model.model.embed_tokens.weight[used[0]] = float("nan")
    model.save_pretrained(tmp_path / "bad")
    result, _ = run(config(str(tmp_path / "bad"), tmp_path / "out", max_steps=1, batch_size=2), data=trees(2))
    [row] = rows(tmp_path / "out")
    assert (row["loss"], row["grad_norm"], row["skipped"]) == (None, None, "non-finite gradient")
    assert result.skipped_steps == 1
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "bad", tmp_path / "out"))
    assert all(torch.equal(before[key].nan_to_num(), after[key].nan_to_num()) for key in before)


def test_checkpoints_hold_no_code_and_only_the_newest_are_kept(llama: str, tmp_path: Path) -> None:
    _, recorder = run(config(llama, tmp_path, max_steps=5, save_steps=1, save_total_limit=2))
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-5"]
    assert len(recorder.saved) == 5
    assert not list(tmp_path.glob(".checkpoint*"))
    for folder in tmp_path.glob("checkpoint-*"):
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "config.json",
            "generation_config.json",
            "manifest.json",
            "model.safetensors",
            "optimizer.pt",
            "trainer_state.json",
        }
        state = torch.load(folder / "optimizer.pt", weights_only=True)
        assert len(state["state"]) == len(list(tiny_model("llama").parameters()))


def test_bfloat16_on_the_cpu_ends_near_float32(llama: str, tmp_path: Path) -> None:
    fp32, _ = run(config(llama, tmp_path / "fp32", max_steps=5))
    bf16, _ = run(config(llama, tmp_path / "bf16", max_steps=5, precision="bf16"))
    assert bf16.eval_loss == pytest.approx(fp32.eval_loss, rel=1e-2)
    assert bf16.eval_loss != fp32.eval_loss


def test_weights_are_saved_in_the_dtype_in_which_they_were_published(tmp_path: Path) -> None:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "published")
    run(config(str(tmp_path / "published"), tmp_path / "full", max_steps=1))
    assert {tensor.dtype for tensor in load_file(tmp_path / "full" / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype="auto").dtype == torch.bfloat16


def test_an_adapter_loads_onto_its_base_and_gives_the_reported_loss(llama: str, tmp_path: Path) -> None:
    result, _ = run(config(llama, tmp_path, tuner="lora", lora_rank=4, max_steps=5))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path).merge_and_unload()
    model.requires_grad_(True)
    assert result.eval_loss == pytest.approx(reference(model, trees(2))[0], rel=1e-4)
    assert result.eval_loss != result.initial_eval_loss


def test_settings_that_cannot_work_are_one_line_errors(llama: str, tmp_path: Path) -> None:
    run(config(llama, tmp_path / "done", max_steps=1, save_steps=1))
    cases = {
        "cannot be loaded": config(str(tmp_path / "nowhere"), tmp_path / "a"),
        "holds checkpoints of an earlier run": config(llama, tmp_path / "done"),
        "is no checkpoint": config(llama, tmp_path / "b", resume_from_checkpoint=str(tmp_path)),
        "seed (42 there, 7 now)": config(llama, tmp_path / "done", resume=True, seed=7),
        "lora_target_modules": config(llama, tmp_path / "c", tuner="lora", lora_target_modules=["nothing"]),
        "fp16 needs a GPU": config(llama, tmp_path / "d", precision="fp16"),
    }
    for message, settings in cases.items():
        with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
            run(settings)
        assert message in str(caught.value)
    with pytest.raises(UserError, match="the training data"):
        run(config(llama, tmp_path / "done", resume=True), data=trees(4))
    with pytest.raises(UserError, match="no conversation"):
        run(config(llama, tmp_path / "e"), data=[])


def test_a_model_with_sliding_windows_is_trained_on_paths_and_says_so(tmp_path: Path) -> None:
    model = saved_model("gemma3", tmp_path / "gemma")
    result, recorder = run(config(model, tmp_path / "out", max_steps=2, gradient_checkpointing=True))
    assert recorder.summary is not None
    assert recorder.summary.layout == "split"
    assert any("sliding attention over 8 tokens" in note for note in recorder.notes)
    assert result.eval_loss == pytest.approx(
        reference(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), trees(2))[0], rel=1e-5
    )
