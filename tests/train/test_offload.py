"""Offloaded activations change no bit, and a pass, failed or not, leaves nothing on the device."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train import offload
from agentsft.train.model import checkpoint_activations, decoder_layers, load_model
from agentsft.train.offload import Offload
from tests.batch.trees import random_tree, sample_step
from tests.train.test_invariance import rows
from tests.train.test_run import config, run
from tests.train.tiny import SHAPE, loss_and_gradient, saved_model, step_run, tiny_model

CPU = torch.device("cpu")


def checkpointed(model: Any, offload: Offload | None, device: torch.device = CPU, fill: int = 75) -> Any:
    model = model.to(device)
    checkpoint_activations(model)
    made = step_run(model, sample_step(), fill=fill)
    made.module.offload = offload
    return made


def tall(layers: int) -> Any:
    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": layers}
    return AutoModelForCausalLM.from_config(Qwen3Config(**shape, head_dim=16, tie_word_embeddings=False)).train()


class Counted(Offload):
    """Knows what it has taken and which of it still lives."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.kept: list[Any] = []

    def _keep(self, tensor: torch.Tensor) -> Any:
        kept = super()._keep(tensor)
        self.kept.append(weakref.ref(kept))
        return kept


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_loss_and_gradient_are_bit_equal(name: str) -> None:
    expected = loss_and_gradient(checkpointed(tiny_model(name), None))
    loss, gradient = loss_and_gradient(checkpointed(tiny_model(name), Offload(CPU)))
    assert float(gradient.norm()) > 1e-3
    assert loss == expected[0]
    assert torch.equal(gradient, expected[1])


def test_every_layers_input_is_taken_and_given_back_and_nothing_is_left() -> None:
    counted = Counted(CPU)
    made = checkpointed(tall(6), counted, fill=4096)
    layers = decoder_layers(made.module.model)
    assert layers is not None
    alive: dict[str, list[int]] = {"forward": [], "backward": []}

    def count(where: str) -> None:
        alive[where].append(sum(kept()._tensor is not None for kept in counted.kept if kept() is not None))

    for layer in layers:
        layer.register_forward_hook(lambda *_: count("forward"))
        layer.register_full_backward_hook(lambda *_: count("backward"))
    loss_and_gradient(made)
    assert len(counted.kept) >= len(layers)
    # No more is on the device than the newest, or the one on its way to the layer that comes next.
    assert {len(counts) >= len(layers) for counts in alive.values()} == {True}
    assert {max(counts) for counts in alive.values()} == {1}
    gc.collect()
    assert not any(kept() for kept in counted.kept)


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    counted = Counted(CPU)
    made = checkpointed(tiny_model("llama"), counted)
    layers = decoder_layers(made.module.model)
    assert layers is not None

    def fail(*_: object) -> None:
        raise KeyError("a fault in the second layer")

    with layers[1].register_forward_pre_hook(fail), pytest.raises(KeyError):
        loss_and_gradient(made)
    gc.collect()
    assert counted.kept
    assert not any(kept() for kept in counted.kept)
    assert torch.equal(loss_and_gradient(made)[1], loss_and_gradient(checkpointed(tiny_model("llama"), None))[1])


def test_values_come_back_bit_by_bit_in_any_type_and_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "BLOCK", 64)
    kept = Offload(CPU)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        values = torch.randn(1, 24, 8).to(dtype)
        values[0, 3, 1], values[0, 4, 1] = float("nan"), -0.0
        for tensor in (values, values.transpose(1, 2).contiguous().transpose(1, 2)):
            first, second = kept._keep(tensor), kept._keep(tensor.clone())
            again = first.back()
            assert first is not second
            assert again.dtype == dtype
            assert torch.equal(again.contiguous().view(torch.uint8), values.view(torch.uint8))
            assert torch.equal(second.back().contiguous().view(torch.uint8), values.view(torch.uint8))


def test_a_whole_run_repeats_the_run_without_it(tmp_path: Path) -> None:
    model = saved_model("llama", tmp_path / "model")
    settings = {"max_steps": 3, "gradient_checkpointing": True, "tuner": "lora", "lora_dropout": 0.2, "eval_steps": 1}
    for name, offloaded in {"with": True, "without": False}.items():
        run(config(model, tmp_path / name, activation_offloading=offloaded, **settings))
    assert rows(tmp_path / "with") == rows(tmp_path / "without")
    assert rows(tmp_path / "with", "evaluations") == rows(tmp_path / "without", "evaluations")


def test_it_goes_with_gradient_checkpointing_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gradient_checkpointing"):
        load_model(TrainConfig(model=str(tmp_path), activation_offloading=True), CPU, "fp32")


@pytest.mark.usefixtures("cuda")
def test_on_a_gpu_copies_are_done_before_their_memory_is_used_anew() -> None:
    device, shape = torch.device("cuda"), (1, 8192, 1024)
    kept, expected, waiting = Offload(device), [], []
    with kept.around(shape):
        for number in range(24):
            tensor = torch.randn(shape, device=device)
            expected.append(tensor.cpu())
            waiting.append(kept._keep(tensor))
            del tensor
            torch.full(shape, float(number), device=device).mul_(2)  # takes the memory that is free by now
    while waiting:
        again = waiting.pop().back() * 1
        torch.full(shape, -1.0, device=device).mul_(2)
        assert torch.equal(again.cpu(), expected.pop())


@pytest.mark.usefixtures("cuda")
def test_on_a_gpu_gradients_are_the_same_and_layer_inputs_take_no_memory() -> None:
    random, device = np.random.default_rng(5), torch.device("cuda")
    trees = [random_tree(random, 4000) for _ in range(4)]
    found, peaks = [], []
    for offloaded in (False, True):
        model = tall(30).to(device)
        checkpoint_activations(model)
        made = step_run(model, trees, budget=16384, attn_implementation="sdpa")
        made.module.offload = Offload(device) if offloaded else None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found.append(loss_and_gradient(made))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    # Sums on a GPU are added in an order that changes.
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert (found[0][1] - found[1][1]).norm() <= 1e-5 * found[0][1].norm()
    inputs = 30 * sum(map(len, trees)) * 64 * 4
    assert peaks[0] - peaks[1] > 0.7 * inputs
