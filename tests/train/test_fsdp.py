"""A run that is sharded over two processes (FSDP2) computes, saves and goes on as a run of one process does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentsft.train.checkpoint import fault
from tests.batch.trees import sample_step
from tests.train.fsdp_ranks import PLACES, WAYS, model_of
from tests.train.launched import launch_two
from tests.train.reference import reference
from tests.train.test_invariance import assert_alike, rows, same
from tests.train.tiny import saved_model, tiny_model
from tests.train.two_ranks import short_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes, started by `accelerate launch`, left what they computed."""
    folder = tmp_path_factory.mktemp("fsdp")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    saved_model("llama", folder / "model")
    short_runs(folder, sample_step(), [("one then two", {"max_steps": 2})])
    launch_two("tests.train.fsdp_ranks", folder, "--use_fsdp", "--fsdp_version", "2")
    return folder


def test_sharded_steps_have_the_loss_and_gradient_of_plain_transformers(folder: Path) -> None:
    results = load_file(folder / "results.safetensors")
    for way in WAYS:
        taught = sample_step()[:1] if way == "fewer trees than ranks" else sample_step()
        ours = float(results[f"{way}/loss"]), results[f"{way}/gradient"]
        assert same(ours, reference(model_of(way), taught)), way


def test_embeddings_are_gathered_once_a_pass_and_gradients_exchanged_once_a_step(folder: Path) -> None:
    results, groups = load_file(folder / "results.safetensors"), 3  # two layers, and the rest
    for way in WAYS:
        passes, gathered, exchanged = results[f"{way}/counts"].tolist()
        assert gathered == passes, way
        assert exchanged == groups * (passes if WAYS[way].get("sync_each_batch") else 1), way
        assert passes > 1 or "fill" not in WAYS[way]


def test_all_processes_find_the_rows_that_cannot_be_computed(folder: Path) -> None:
    assert load_file(folder / "results.safetensors")["bad rows"].tolist() == [2, 5]


def test_memory_that_runs_out_is_a_line_that_names_a_setting(folder: Path) -> None:
    assert bool(load_file(folder / "results.safetensors")["no room"])


def test_sharded_runs_resume_bit_identically_and_train_like_one_process(folder: Path) -> None:
    for kind in ("", " lora"):
        whole, cut = folder / f"whole{kind}", folder / f"cut{kind}"
        assert rows(whole) == rows(cut)
        assert rows(whole, "evaluations") == rows(cut, "evaluations")
        [one], [two] = whole.glob("*model.safetensors"), cut.glob("*model.safetensors")
        first, second = load_file(one), load_file(two)
        assert all(torch.equal(first[name], second[name]) for name in first)
    short_runs(folder, sample_step(), [("alone", {"max_steps": 4})])
    assert_alike(folder / "alone", folder / "whole")
    assert_same_model(folder / "alone", folder / "whole")
    adapter = [
        json.loads((folder / name / "adapter_config.json").read_text(encoding="utf-8"))
        for name in ("whole lora", "cut lora")
    ]
    assert adapter[0] == adapter[1]
    short_runs(folder, sample_step(), [("alone lora", {"max_steps": 4, "tuner": "lora"})])
    assert load_file(folder / "alone lora" / "adapter_model.safetensors").keys() == first.keys()


def test_a_run_goes_on_from_shards_alone_and_from_plain_checkpoints_sharded(folder: Path) -> None:
    assert (folder / "two then one" / "checkpoint-2" / "shards.json").is_file()
    assert (folder / "one then two" / "checkpoint-2" / "optimizer.pt").is_file()
    short_runs(folder, sample_step(), [("two then one", {"max_steps": 4})])
    for name in ("one then two", "two then one"):
        assert_alike(folder / name, folder / "whole")
        assert_same_model(folder / name, folder / "whole")


def test_a_share_that_cannot_be_written_costs_that_checkpoint_alone(folder: Path) -> None:
    output = folder / "full disk"
    first, note = json.loads((output / "notes.json").read_text(encoding="utf-8"))
    assert first == "FSDP2: weights and optimizer state are shared by 2 processes; gradients are exchanged once a step."
    assert note.startswith("checkpoint-4 could not be written (process 1: [Errno 28] No space left on device; ")
    assert [path.name for path in output.iterdir() if "checkpoint" in path.name] == ["checkpoint-2"]
    assert fault(output / "checkpoint-2") is None
    assert rows(output) == rows(folder / "whole")


def test_the_best_model_is_kept_whole(folder: Path) -> None:
    best, last = (weights(path) for path in (folder / "whole" / "best", folder / "whole"))
    assert best.keys() == last.keys()
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_products_in_bfloat16_change_the_loss_by_rounding_alone(folder: Path) -> None:
    for bf16, fp32 in zip(rows(folder / "bf16"), rows(folder / "whole"), strict=False):
        assert bf16["loss"] != fp32["loss"]
        assert bf16["loss"] == pytest.approx(fp32["loss"], rel=2e-2)
        assert bf16["grad_norm"] == pytest.approx(fp32["grad_norm"], rel=5e-2)


def test_shards_get_the_random_places_and_roundings_of_a_whole_model(folder: Path) -> None:
    results = load_file(folder / "results.safetensors")
    model = tiny_model("llama").bfloat16().float()
    for name, change in PLACES.items():
        before = {key: value.clone() for key, value in model.state_dict().items()}
        change(model)
        for key, value in model.state_dict().items():
            assert torch.equal(results[f"{name}/{key}"], value), key
            assert not torch.equal(value, before[key]), key


def test_damage_to_any_file_of_a_sharded_checkpoint_is_found(folder: Path, tmp_path: Path) -> None:
    whole = folder / "whole" / "checkpoint-4"
    assert fault(whole) is None
    names = sorted(path.name for path in whole.iterdir())
    assert {"shard-00001-of-00002.safetensors", "shard-00002-of-00002.safetensors"} < set(names)
    for name in names:
        copy = tmp_path / name
        shutil.copytree(whole, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        changed = fault(copy)
        (copy / name).unlink()
        assert changed
        assert fault(copy)


def assert_same_model(one: Path, two: Path) -> None:
    """Both load as plain Transformers models of the same form, with weights that differ by rounding alone."""
    assert {path.name for path in one.iterdir() if path.is_file()} == {p.name for p in two.iterdir() if p.is_file()}
    settings = [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (one, two)]
    assert settings[0] == settings[1]
    ours, theirs = (weights(folder) for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.allclose(value, theirs[name], atol=1e-5), name


def weights(folder: Path) -> dict[str, Any]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
