"""Where memory runs out in the middle of a step, its gradient is what it would have been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from agentsft.batch.pack import Pack
from agentsft.batch.split import chains
from agentsft.errors import UserError
from agentsft.train import passes
from agentsft.train.memory import divided, out_of_memory
from agentsft.types import TokenTree
from tests.batch.trees import lessons, sample_step, token_trees
from tests.train.oom import Scarce
from tests.train.reference import reference
from tests.train.test_invariance import rows, same
from tests.train.test_run import config, run, trees
from tests.train.tiny import loss_and_gradient, saved_model, step_run, tiny_model


@given(made=st.lists(token_trees(), min_size=1, max_size=5), limit=st.integers(1, 100), rows=st.booleans())
def test_a_divided_pack_teaches_the_same_in_smaller_packs(made: list[TokenTree], limit: int, rows: bool) -> None:
    if rows:
        made = [chain for tree in made for chain in chains(tree)]
    packs = divided(Pack(tuple(made), rows), limit)
    assert lessons([tree for pack in packs for tree in pack.trees]) == lessons(made)
    assert all(pack.rows == rows for pack in packs)
    for pack in packs:
        single_path = len(pack.trees) == 1 and int(pack.trees[0].position_ids.max()) + 1 > limit
        assert pack.size <= limit or single_path


@pytest.mark.parametrize("where", ["forward", "backward", "between layers"])
@pytest.mark.parametrize("settings", [{}, {"fill": 75}, {"layout": "split"}], ids=["tree", "packs", "split"])
def test_a_step_that_runs_out_of_memory_has_the_gradient_of_an_undisturbed_one(where: str, settings: Any) -> None:
    expected = reference(tiny_model("llama"), sample_step())
    model = tiny_model("llama")
    step = step_run(model, sample_step(), **settings)
    largest = max(pack.tokens for pack in step.plan(0).packs)
    with Scarce(model, most=max(60, largest // 3), where=where) as scarce:
        assert same(loss_and_gradient(step), expected)
    assert scarce.failures == step.halved > 0
    assert scarce.passes > scarce.failures
    # What was learned is kept: the next step does not fail first.
    with Scarce(model, most=max(60, largest // 3), where=where) as again:
        assert same(loss_and_gradient(step), expected)
    assert again.failures == 0


def test_a_model_of_padded_rows_is_halved_by_rows() -> None:
    expected, model = reference(tiny_model("gemma3"), sample_step()), tiny_model("gemma3")
    step = step_run(model, sample_step(), fill=400)
    assert step.planner.rows
    with Scarce(model, most=130, where="backward") as scarce:
        assert same(loss_and_gradient(step), expected)
    assert scarce.failures


@pytest.mark.parametrize(("settings", "named"), [({}, True), ({"gradient_checkpointing": True}, False)])
def test_one_path_that_does_not_fit_is_a_line_that_names_settings_and_values(settings: dict, named: bool) -> None:
    model, [longest] = tiny_model("llama"), [max(sample_step(), key=lambda tree: int(tree.position_ids.max()))]
    length = int(longest.position_ids.max()) + 1
    step = step_run(model, [longest], **settings)
    with Scarce(model, most=5, where="backward"), pytest.raises(UserError, match=r"^out of memory[^\n]*$") as caught:
        loss_and_gradient(step)
    assert f"one path of {length} tokens" in str(caught.value)
    assert f"max_length: {length // 2}" in str(caught.value)
    assert ("gradient_checkpointing: true" in str(caught.value)) == named
    assert "tuner: lora" in str(caught.value)


def test_a_run_says_that_memory_ran_out_and_ends_like_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved_model("llama", tmp_path / "model")
    settings = {"max_steps": 5, "eval_steps": 2, "learning_rate": 1e-3, "micro_batch_tokens": 128}
    run(config(model, tmp_path / "whole", **settings))
    forward: Callable[..., Any] = passes._forward
    failures = []

    def scarce(run: Any, pack: Pack, *scale: Any) -> Any:
        if pack.tokens > 60:
            failures.append(pack.tokens)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n 2.00 GiB.")
        return forward(run, pack, *scale)

    monkeypatch.setattr(passes, "_forward", scarce)
    result, recorder = run(config(model, tmp_path / "scarce", **settings))
    assert result.skipped_steps == 0
    told = [
        row for name in ("evaluations", "metrics") for row in rows(tmp_path / "scarce", name) if "out_of_memory" in row
    ]
    assert sum(row["out_of_memory"] for row in told) == len(failures) > 0
    assert len(recorder.notes) == len(told)
    assert all(note.startswith("Out of memory in ") and "micro_batch_tokens: " in note for note in recorder.notes)
    for one, two in zip(rows(tmp_path / "whole"), rows(tmp_path / "scarce"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["num_items_in_batch"] == two["num_items_in_batch"]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "scarce")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-4) for key in weights[0])


def test_memory_that_runs_out_for_the_moments_is_a_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", scarce)
    with pytest.raises(UserError, match=r"^out of memory for weights[^\n]*tuner: lora[^\n]*$"):
        run(config(saved_model("llama", tmp_path / "model"), tmp_path / "out", max_steps=1), data=trees(2))


def test_an_error_that_is_not_about_memory_is_not_taken_for_one() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    model = tiny_model("llama")
    step = step_run(model, sample_step())
    model.model.layers[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        loss_and_gradient(step)
