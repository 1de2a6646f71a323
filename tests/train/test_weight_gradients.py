"""Gradients that products add up are those that autograd would have added."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch._functorch.config as partitioner
import torch._inductor.config as inductor
from torch import distributed, nn
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from agentsft.train import compiled, weight_gradients
from agentsft.train.weight_gradients import adding_up, give_gradients

HIDDEN, INNER = 32, 96


class Layer(nn.Module):
    """Linear layers, one of them used twice, one not at all, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.gate, self.up = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER)
        self.down, self.twice = nn.Linear(INNER, HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.unused = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.twice(self.twice(x))
        normed = self.norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch, settings_of_torch: None) -> Iterator[Layer]:
    """A layer to be compiled as on a GPU."""
    monkeypatch.setattr(compiled, "give_gradients", partial(give_gradients, device="cpu"))
    monkeypatch.setattr(weight_gradients, "_GIVEN", set())
    torch._dynamo.reset()
    with inductor.patch(fx_graph_cache=False), partitioner.patch(enable_autograd_cache=False):
        compiled.save_less()
        torch.manual_seed(4)
        yield Layer()


def passes(layer: nn.Module, call: Any, add: bool, lengths: tuple[int, ...] = (40, 24, 56)) -> dict[str, torch.Tensor]:
    """Gradients of a step of passes of these lengths."""
    layer.zero_grad()
    step(layer, call, lengths, add)
    return {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}


def step(layer: nn.Module, call: Any, lengths: tuple[int | None, ...], add: bool = True) -> None:
    for number, length in enumerate(lengths):
        if length is None:
            continue
        x = torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(number)).bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = call(x).float().square().sum()
        with adding_up(layer.parameters() if add else ()):
            loss.backward()


def test_over_a_steps_passes_products_add_up_what_autograd_would(layer: Layer) -> None:
    call = torch.compile(layer, dynamic=True)
    expected = passes(layer, layer, add=False)
    plain = passes(layer, call, add=False)
    ours = passes(layer, call, add=True)
    assert ours.keys() == expected.keys() == plain.keys()
    assert {id(p) for p in layer.parameters() if p.data_ptr() in weight_gradients._GIVEN} == {
        id(linear.weight) for linear in (layer.gate, layer.up, layer.down)
    }
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-6, atol=1e-5 * float(gradient.abs().max()))
        assert float((ours[name] - gradient).norm() / gradient.norm()) < 1e-2, name
    assert weight_gradients._SUMS == {}


def test_graphs_within_a_graph_are_left_alone(layer: Layer) -> None:
    q, k, v = torch.randn(3, 1, 1, 128, 16)
    causal = create_block_mask(lambda b, h, q_index, k_index: q_index >= k_index, None, None, 128, 128, device="cpu")
    out = torch.compile(flex_attention)(q, k, v, block_mask=causal)
    torch.testing.assert_close(out, functional.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_a_steps_sums_stay_where_they_are(layer: Layer) -> None:
    call = torch.compile(layer, dynamic=True)
    addresses = []
    for number in range(3):
        passes(layer, call, add=True, lengths=(40,)) if number == 0 else again(layer, call)
        addresses.append({name: p.grad.data_ptr() for name, p in layer.named_parameters() if p.grad is not None})
    assert addresses[0] == addresses[1] == addresses[2]


def again(layer: Layer, call: Any) -> None:
    x = torch.ones(8, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = call(x).float().sum()
    with adding_up(layer.parameters()):
        assert layer.gate.weight.grad is None
        loss.backward()


def test_layers_computed_again_in_the_backward_pass_are_not_compiled_again(layer: Layer) -> None:
    compiled.compile_once()
    layer.compile(dynamic=True)
    again = partial(checkpoint, layer, use_reentrant=False)
    plain = passes(layer, again, add=False)
    graphs = counters["stats"]["unique_graphs"]
    ours = passes(layer, again, add=True)
    assert counters["stats"]["unique_graphs"] == graphs > 0
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-5 * float(gradient.abs().max()))


def test_under_ddp_the_sums_are_parts_of_its_buckets(layer: Layer) -> None:
    expected = passes(layer, torch.compile(layer, dynamic=True), add=False)
    layer.unused.requires_grad_(False)
    layer.zero_grad()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(layer, gradient_as_bucket_view=True)
        layer.compile(dynamic=True)
        addresses = []
        for _ in range(3):
            for p in layer.parameters():
                if p.grad is not None:
                    p.grad.zero_()
            with wrapped.no_sync():
                step(layer, wrapped, (40, 24))
            addresses.append([p.grad.data_ptr() for p in layer.parameters() if p.grad is not None])
            step(layer, wrapped, (None, None, 56))
            addresses.append([p.grad.data_ptr() for p in layer.parameters() if p.grad is not None])
            for name, gradient in expected.items():
                torch.testing.assert_close(layer.get_parameter(name).grad, gradient, rtol=1e-5, atol=1e-5)
        assert addresses[2] == addresses[3] == addresses[4] == addresses[5]  # since it made its last buckets
    finally:
        distributed.destroy_process_group()


def test_what_comes_another_way_is_added_before_ddp_would_see_it(layer: Layer) -> None:
    expected = passes(layer, layer, add=False)
    passes(layer, torch.compile(layer, dynamic=True), add=True, lengths=(40, 24))
    seen = {}
    for name, p in layer.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.update({name: p.grad.clone()}))
    step(layer, layer, (None, None, 56))
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((seen[name] - gradient).norm() / gradient.norm()) < 1e-2, name
        assert torch.equal(seen[name], layer.get_parameter(name).grad)


def test_a_failed_pass_leaves_the_gradients_of_those_before(layer: Layer) -> None:
    call = torch.compile(layer, dynamic=True)
    before = passes(layer, call, add=True, lengths=(40,))
    with pytest.raises(torch.OutOfMemoryError), adding_up(layer.parameters()):
        raise torch.OutOfMemoryError
    after = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())
    assert weight_gradients._SUMS == {}
