"""Loss and gradient of a step depend on its conversations alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from agentsft.train.model import checkpoint_activations
from tests.batch.trees import sample_step
from tests.train.launched import launch_two
from tests.train.reference import reference
from tests.train.tiny import loss_and_gradient, saved_model, step_run, tiny_model
from tests.train.two_ranks import SHORT, short_runs

WAYS: dict[str, dict[str, Any]] = {
    "one pack": {},
    "one by one": {"fill": 1},
    "eight micro-batches": {"fill": 75},
    "trees cut to the budget": {"budget": 45},
    "every conversation by itself": {"share_prefixes": False},
    "split": {"layout": "split"},
    "split, one by one": {"layout": "split", "fill": 1},
    "eager": {"attn_implementation": "eager"},
    "gradient checkpointing": {"gradient_checkpointing": True},
}


def same(ours: tuple[float, torch.Tensor], theirs: tuple[float, torch.Tensor]) -> bool:
    assert float(theirs[1].norm()) > 1e-3
    return ours[0] == pytest.approx(theirs[0], rel=1e-5) and bool(
        (ours[1] - theirs[1]).norm() <= 1e-5 * theirs[1].norm()
    )


@pytest.mark.parametrize("name", ["llama", "qwen3", "cohere", "granite", "gemma2-wide"])
def test_loss_and_gradient_equal_plain_transformers_however_the_step_is_laid_out(name: str) -> None:
    expected = reference(tiny_model(name), sample_step())
    for way, settings in WAYS.items():
        model = tiny_model(name)
        if settings.get("gradient_checkpointing"):
            checkpoint_activations(model)
        run = step_run(model, sample_step(), **settings)
        assert run.planner.split == (settings.get("layout") == "split")
        assert same(loss_and_gradient(run), expected), way


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_models_with_sliding_windows_get_padded_paths_with_the_same_loss_and_gradient(name: str) -> None:
    expected = reference(tiny_model(name), sample_step())
    for way in ("one pack", "one by one", "eight micro-batches", "eager"):
        run = step_run(tiny_model(name), sample_step(), **WAYS[way])
        assert (run.planner.split, run.planner.rows) == (True, True)
        assert same(loss_and_gradient(run), expected), way


def test_adapters_on_a_tied_head_and_embedding_are_laid_out_exactly_too() -> None:
    def adapted() -> Any:
        model = tiny_model("llama")
        lora = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["lm_head"], init_lora_weights=False)
        lora.ensure_weight_tying = True
        torch.manual_seed(1)
        return get_peft_model(model, lora)

    expected = reference(adapted(), sample_step())
    for way in ("one pack", "eight micro-batches", "split"):
        assert same(loss_and_gradient(step_run(adapted(), sample_step(), **WAYS[way])), expected), way


@pytest.mark.parametrize("normalize", ["items", "weights"])
def test_normalize_chooses_the_denominator(normalize: str) -> None:
    expected = reference(tiny_model("llama"), sample_step(), by_weights=normalize == "weights")
    assert same(loss_and_gradient(step_run(tiny_model("llama"), sample_step(), normalize=normalize)), expected)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes, started by `accelerate launch`, left what they computed."""
    folder = tmp_path_factory.mktemp("two_ranks")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    saved_model("llama", folder / "model")
    short_runs(folder, sample_step(), [("one then two", {"max_steps": 2})])
    # `accelerate launch --cpu` starts several processes only under MPI; its launcher for GPUs does so on CPUs too.
    launch_two("tests.train.two_ranks", folder, "--multi_gpu")
    return folder


def test_two_processes_give_the_same_loss_and_gradient(two_ranks: Path) -> None:
    results = load_file(two_ranks / "results.safetensors")
    for way in ("tree", "split", "small packs", "fewer trees than ranks"):
        taught = sample_step()[:1] if way == "fewer trees than ranks" else sample_step()
        ours = float(results[f"{way}/loss"]), results[f"{way}/gradient"]
        assert same(ours, reference(tiny_model("llama"), taught)), way


def test_two_processes_add_up_the_same_gradient_by_products(two_ranks: Path) -> None:
    results = load_file(two_ranks / "results.safetensors")
    expected = results["added up by autograd"]
    assert (expected - results["tree/gradient"]).norm() < 0.02 * expected.norm()
    for step in range(3):
        torch.testing.assert_close(results[f"added up, step {step}"], expected, rtol=1e-5, atol=1e-6)


def test_two_processes_resume_bit_identically_and_train_like_one(two_ranks: Path, tmp_path: Path) -> None:
    assert rows(two_ranks / "whole") == rows(two_ranks / "cut")
    assert rows(two_ranks / "whole", "evaluations") == rows(two_ranks / "cut", "evaluations")
    whole, cut = (load_file(two_ranks / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    short_runs(two_ranks, sample_step(), [("alone", {"max_steps": 4})])
    assert_alike(two_ranks / "alone", two_ranks / "whole")


def test_two_processes_resume_bit_identically_under_dropout(two_ranks: Path) -> None:
    assert rows(two_ranks / "whole lora") == rows(two_ranks / "cut lora")
    whole, cut = (load_file(two_ranks / f"{name} lora" / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_run_goes_on_with_another_number_of_processes(two_ranks: Path) -> None:
    short_runs(two_ranks, sample_step(), [("two then one", {"max_steps": 4})])
    for name in ("one then two", "two then one"):
        assert_alike(two_ranks / name, two_ranks / "whole")


def assert_alike(ours: Path, theirs: Path) -> None:
    """The same steps on the same conversations, with losses that differ by rounding alone."""
    for name in ("metrics", "evaluations"):
        for one, two in zip(rows(ours, name), rows(theirs, name), strict=True):
            assert one.keys() == two.keys()
            for key in one.keys() & {"loss", "eval_loss", "grad_norm", "num_items_in_batch", "tokens", "step", "epoch"}:
                assert one[key] == pytest.approx(two[key], rel=1e-4), key


def test_memory_that_runs_out_on_one_of_two_processes_changes_no_gradient(two_ranks: Path) -> None:
    results, expected = load_file(two_ranks / "results.safetensors"), reference(tiny_model("llama"), sample_step())
    for name, (_, ranks) in SHORT.items():
        assert same((float(results[f"{name}/loss"]), results[f"{name}/gradient"]), expected), name
        assert float(results[f"{name}/again"]) == pytest.approx(expected[0], rel=1e-5), name
        for rank, (failures, halved) in enumerate(results[f"{name}/seen"].tolist()):
            assert failures == halved, name
            assert bool(failures) == (rank in ranks), name


def test_two_processes_find_the_rows_that_cannot_be_computed(two_ranks: Path) -> None:
    assert load_file(two_ranks / "results.safetensors")["bad rows"].tolist() == [2, 5]


def rows(output: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """The rows of metrics.jsonl (or evaluations.jsonl) without what depends on the clock."""
    clock = ("seconds", "tokens_per_second", "memory_gib")
    lines = (output / f"{name}.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in lines]


def test_what_conversations_share_at_their_start_is_computed_once_in_each_pack() -> None:
    shared = step_run(tiny_model("llama"), sample_step()).plan(0)
    alone = step_run(tiny_model("llama"), sample_step(), share_prefixes=False).plan(0)
    assert len(shared.packs) == len(alone.packs) == 1
    assert alone.tokens - shared.tokens == 3 * 30 + 2 * 20
    assert shared.tree_tokens == alone.tree_tokens == alone.tokens
    assert shared.num_items == alone.num_items
