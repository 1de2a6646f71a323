"""Compiled layers: any length of pack with one compilation, and no more kept for the backward pass than is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as partitioner
import torch._inductor.config as inductor
from peft import LoraConfig, get_peft_model
from torch import distributed, nn
from torch._dynamo.backends.distributed import DDPOptimizer
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from agentsft.train.compiled import compile_layers, save_less
from agentsft.train.model import decoder_layers
from tests.train.tiny import tiny_model

HIDDEN, INNER, TOKENS = 32, 96, 40


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    banned = {name: value for name, value in partitioner.get_config_copy().items() if name.startswith("ban_recompute_")}
    custom, cutting = inductor.joint_custom_post_pass, dynamo.optimize_ddp
    yield
    inductor.joint_custom_post_pass, dynamo.optimize_ddp = custom, cutting
    for name, value in banned.items():
        setattr(partitioner, name, value)
    torch._dynamo.reset()


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


def kept(layer: nn.Module) -> list[tuple[int, ...]]:
    """Shapes of the bfloat16 tensors that wait for the backward pass of `layer`, compiled, under autocast."""
    shapes = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16:
            shapes.append(tuple(tensor.shape))
        return tensor

    torch._dynamo.reset()
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = torch.randn(TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
        torch.compile(layer)(x).float().sum().backward()
    return shapes


def test_products_of_activations_are_computed_again_and_the_weights_casts_are_kept() -> None:
    before = kept(FeedForward())
    save_less()
    after = kept(FeedForward())
    assert wide(before) == 3  # gate, up and their product
    assert wide(after) == 2
    assert len([shape for shape in after if set(shape) == {HIDDEN, INNER}]) == 3


def test_under_an_adapter_products_are_computed_again_too() -> None:
    model = get_peft_model(tiny_model("qwen3").bfloat16(), LoraConfig(target_modules="all-linear", r=4))
    compile_layers(model)
    config, tokens, count = model.get_base_model().config, 256, 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += tensor.numel() == tokens * config.intermediate_size
        return tensor

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_base_model().model(torch.arange(tokens)[None] % 50).last_hidden_state.float().sum().backward()
    assert count == 2 * config.num_hidden_layers


def wide(shapes: list[tuple[int, ...]]) -> int:
    """How many of the tensors are as wide as the layer inside."""
    return sum(TOKENS in shape and INNER in shape for shape in shapes)


def test_packs_of_other_lengths_compile_nothing_anew() -> None:
    model = tiny_model("llama")
    layers = decoder_layers(model)
    assert layers is not None
    plain = [model.model(torch.arange(n)[None] % 50).last_hidden_state for n in (768, 256)]
    assert compile_layers(model) == ""
    seen = []
    for n, expected in zip((768, 256, 512, 640), (*plain, None, None), strict=True):
        hidden = model.model(torch.arange(n)[None] % 50).last_hidden_state
        hidden.sum().backward()
        seen.append(counters["frames"]["total"])
        if expected is not None:
            torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
    assert len(layers) > 1
    assert seen[0] == seen[-1]


def test_a_layer_is_not_cut_into_pieces_under_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = []
    monkeypatch.setattr(DDPOptimizer, "compile_fn", lambda self, graph, inputs: cuts.append(graph) or graph)
    model = tiny_model("llama")
    compile_layers(model)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        DistributedDataParallel(model)(torch.arange(256)[None] % 50).logits.sum().backward()
    finally:
        distributed.destroy_process_group()
    assert counters["frames"]["ok"] > 0
    assert cuts == []
