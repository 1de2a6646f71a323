"""Compiled layers: any length of pack with one compilation, and no more kept for the backward pass than is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as partitioner
import torch._inductor.config as inductor
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
    banned, custom = partitioner.ban_recompute_materialized_backward, inductor.joint_custom_post_pass
    cutting = dynamo.optimize_ddp
    yield
    dynamo.optimize_ddp = cutting
    partitioner.ban_recompute_materialized_backward, inductor.joint_custom_post_pass = banned, custom
    torch._dynamo.reset()


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


def kept() -> list[tuple[int, ...]]:
    """Shapes of the bfloat16 tensors that wait for the backward pass of a layer, compiled, under autocast."""
    shapes = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16:
            shapes.append(tuple(tensor.shape))
        return tensor

    torch._dynamo.reset()
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = torch.randn(TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
        torch.compile(FeedForward())(x).float().sum().backward()
    return shapes


def test_products_of_activations_are_computed_again_and_the_weights_casts_are_kept() -> None:
    before = kept()
    save_less()
    after = kept()
    activations = [shape for shape in after if TOKENS in shape and INNER in shape]
    casts = [shape for shape in after if set(shape) == {HIDDEN, INNER}]
    assert sum(TOKENS in shape and INNER in shape for shape in before) == 3  # gate, up and their product
    assert len(activations) == 2
    assert len(casts) == 3


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
