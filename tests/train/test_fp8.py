"""Products in 8 bits: which layers have them, how near they are, and where they are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from agentsft.errors import UserError
from agentsft.train.fp8 import check_fp8, convert_layers
from agentsft.train.rounding import place_weights
from tests.train.tiny import tiny_model

pytest.importorskip("torchao")


def loss_and_gradient(model: Any, ids: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_products_in_8_bits_are_near_those_in_bfloat16_and_weights_stay_float32(recipe: str) -> None:
    plain = tiny_model("llama").float()
    rounded = copy.deepcopy(plain)
    assert convert_layers(rounded, recipe, emulate=True) == 7 * plain.config.num_hidden_layers
    ids = torch.arange(3, 67)[None] % 60
    (loss, gradient), (near, rounded_gradient) = (loss_and_gradient(model, ids) for model in (plain, rounded))
    assert near == pytest.approx(loss, rel=0.02)
    assert near != loss
    assert list(rounded_gradient) == list(gradient)
    norm = torch.cat([one.flatten() for one in gradient.values()]).norm()
    error = torch.cat([(rounded_gradient[name] - one).flatten() for name, one in gradient.items()]).norm()
    assert 0 < error < 0.25 * norm
    assert {one.dtype for one in rounded_gradient.values()} == {torch.float32}
    weights = rounded.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())


def test_the_head_adapters_and_odd_sizes_keep_their_products() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    layer = model.model.layers[0].mlp
    layer.up_proj = nn.Linear(layer.up_proj.in_features, 24, bias=False)
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    convert_layers(adapted, "rowwise", emulate=True)
    kinds = {name: type(module).__name__ for name, module in adapted.named_modules() if isinstance(module, nn.Linear)}
    kept = {name.rpartition("model.")[2] for name, kind in kinds.items() if kind == "Linear"}
    layers = range(model.config.num_hidden_layers)
    lora = {f"layers.{k}.self_attn.q_proj.lora_{which}.default" for k in layers for which in "AB"}
    assert kept == lora | {"lm_head", "layers.0.mlp.up_proj"}
    assert set(kinds.values()) == {"Linear", "Float8Linear"}


@pytest.mark.parametrize(
    ("kind", "capability", "precision", "quantized", "said"),
    [
        ("cpu", (0, 0), "bf16", False, "cpu has no 8-bit"),
        ("cuda", (8, 0), "bf16", False, "A100 has no 8-bit"),
        ("cuda", (9, 0), "fp16", False, "precision is fp16"),
        ("cuda", (9, 0), "bf16", True, "exclude each other"),
    ],
)
def test_fp8_is_refused_with_the_reason(
    kind: str, capability: tuple[int, int], precision: str, quantized: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(UserError, match=said):
        check_fp8(torch.device(kind), precision, quantized)
    check_fp8(torch.device("cuda"), "bf16", False) if capability == (9, 0) else None


def test_8_bit_weights_move_as_far_as_the_step_once_they_have_left_the_grid_of_bfloat16() -> None:
    torch.manual_seed(5)
    module = nn.Linear(2048, 512, bias=False)
    published = (torch.randn(512, 2048) * 0.02).bfloat16().float()
    module.weight.data.copy_(published)
    place_weights(module, seed=7)
    placed, side = module.weight.detach(), torch.sign(torch.randn_like(published))

    def moved(weights: torch.Tensor, scale: float) -> float:
        """How far 8-bit weights go in a step of 1e-6, as a share of it."""
        before, after = ((w * scale).to(torch.float8_e4m3fn).float() / scale for w in (weights, weights + 1e-6 * side))
        return float(((after - before) * side).mean()) / 1e-6

    assert moved(published, 4096.0) == pytest.approx(45, rel=0.1)  # rowwise has powers of two for scales
    for scale in (4096.0, 448 / float(published.abs().max())):
        assert moved(placed, scale) == pytest.approx(1.0, abs=0.5)
