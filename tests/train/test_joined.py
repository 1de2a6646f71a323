"""Products that are joined, and those that add to the residual stream, give what they gave one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch._functorch.config as partitioner
import torch._inductor.config as inductor
from torch import fx, nn
from torch.nn import functional

from agentsft.train import compiled, joined, weight_gradients
from agentsft.train.compiled import compile_layers, save_less
from tests.train.tiny import tiny_model

HIDDEN, INNER = 32, 96
aten = torch.ops.aten


class Block(nn.Module):
    """A norm, gate, up and down, and the stream around them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.gate, self.up = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def inner(self, normed: torch.Tensor) -> torch.Tensor:
        return functional.silu(self.gate(normed)) * self.up(normed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.inner(self.norm(x)))


class SeenTwice(Block):
    """The gate is applied to its input and to something else."""

    def inner(self, normed: torch.Tensor) -> torch.Tensor:
        return super().inner(normed) + self.gate(normed * 2)


class ThreeSummands(Block):
    """The input of gate and up is added to what they make of it."""

    def inner(self, normed: torch.Tensor) -> torch.Tensor:
        return super().inner(normed) + normed.repeat(1, INNER // HIDDEN)


class ReadTwice(Block):
    """What is added to the stream is read by something else too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        more = self.down(self.inner(self.norm(x)))
        return x + more * more.float().mean().to(more.dtype) + more


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, settings_of_torch: None) -> Iterator[list[fx.Graph]]:
    """Layers are compiled as on a GPU; the graphs of their forward and backward passes."""
    seen: list[fx.Graph] = []
    join = partial(joined.join_products, device="cpu")
    add = partial(joined.add_products, device="cpu")
    monkeypatch.setattr(compiled, "join_products", join)
    monkeypatch.setattr(compiled, "add_products", lambda graph: (add(graph), seen.append(graph)))
    monkeypatch.setattr(compiled, "give_gradients", partial(weight_gradients.give_gradients, device="cpu"))
    torch._dynamo.reset()
    with inductor.patch(fx_graph_cache=False), partitioner.patch(enable_autograd_cache=False):
        save_less()
        torch.manual_seed(3)
        yield seen


def gradients(module: nn.Module, call: Callable[[torch.Tensor], torch.Tensor], bits: int = 16) -> dict[str, Any]:
    """Output and gradients, of the input too, for 40 tokens."""
    module.zero_grad()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, HIDDEN, generator=generator).to(torch.bfloat16 if bits == 16 else torch.float32)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bits == 16):
        out = call(x)
    (out.float() * torch.linspace(-1, 2, HIDDEN)).square().sum().backward()
    return {"out": out.detach(), "x": x.grad} | {name: p.grad.clone() for name, p in module.named_parameters()}


def count(graph: fx.Graph, target: Any) -> int:
    return len(graph.find_nodes(op="call_function", target=target))


def apart(ours: dict[str, Any], others: dict[str, Any]) -> float:
    assert ours.keys() == others.keys()
    return max(float((ours[name] - other).float().norm() / other.float().norm()) for name, other in others.items())


def test_gate_and_up_are_one_product_and_down_adds_to_the_stream(graphs: list[fx.Graph]) -> None:
    block = Block()
    exact, plain = gradients(block, block, bits=32), gradients(block, block)
    ours = gradients(block, torch.compile(block, dynamic=True))
    [graph] = graphs
    assert count(graph, aten.mm.default) == 3  # forward, and the gradients of both inputs
    assert count(graph, torch.ops.agentsft.add_product.default) == 1
    assert apart(ours, exact) < 1.1 * apart(plain, exact) < 2e-2


def test_both_gradients_are_written_into_one_matrix_and_each_is_computed_once(graphs: list[fx.Graph]) -> None:
    from torch._inductor.utils import run_and_get_code

    block = Block()
    _, codes = run_and_get_code(gradients, block, torch.compile(block, dynamic=True))
    assert not any("side_by_side" in line for code in codes for line in code.splitlines() if "torch.ops" in line)
    [kernel] = {line for code in codes for line in code.splitlines() if "silu_backward" in line and "= async" in line}
    assert kernel


@pytest.mark.parametrize(
    ("kind", "joined_once", "added"), [(SeenTwice, False, 4), (ThreeSummands, False, 3), (ReadTwice, True, 0)]
)
def test_what_others_read_too_is_left_alone(
    graphs: list[fx.Graph], kind: type[Block], joined_once: bool, added: int
) -> None:
    """`added`: gradients of an input that are not joined are added up by their products."""
    block = kind()
    exact, plain = gradients(block, block, bits=32), gradients(block, block)
    ours = gradients(block, torch.compile(block, dynamic=True))
    [graph] = graphs
    assert count(graph, torch.ops.agentsft.side_by_side.default) == joined_once
    assert count(graph, torch.ops.agentsft.add_product.default) == added
    assert apart(ours, exact) < 1.1 * apart(plain, exact) < 3e-2


def test_float32_products_stay_as_they_are(graphs: list[fx.Graph]) -> None:
    block = Block()
    expected, ours = gradients(block, block, bits=32), gradients(block, torch.compile(block, dynamic=True), bits=32)
    [graph] = graphs
    assert count(graph, torch.ops.agentsft.add_product.default) == count(graph, aten.cat.default) == 0
    assert apart(ours, expected) < 1e-5


@pytest.mark.parametrize(("name", "added"), [("qwen3", 2), ("cohere", 2 + 3)])
def test_models_train_alike(graphs: list[fx.Graph], name: str, added: int) -> None:
    """`added`: products of a layer that add to the stream, and to gradients of an input that all projections share."""

    def run(bits: int, compile_it: bool = False) -> dict[str, Any]:
        model = tiny_model(name)
        if compile_it:
            assert compile_layers(model) == ""
        with torch.autocast("cpu", torch.bfloat16, enabled=bits == 16):
            embedded = model.model.embed_tokens(torch.arange(64)[None] % 50)
            inputs = embedded.bfloat16() if bits == 16 else embedded
            hidden = model.model(inputs_embeds=inputs).last_hidden_state
        (hidden.float() * torch.linspace(-1, 1, hidden.shape[-1])).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    exact, plain, ours = run(32), run(16), run(16, compile_it=True)
    assert all(count(graph, torch.ops.agentsft.side_by_side.default) == 1 for graph in graphs)
    assert {count(graph, torch.ops.agentsft.add_product.default) for graph in graphs} == {added}
    assert apart(ours, exact) < 1.3 * apart(plain, exact)
