"""Compiled layers: any length of pack with one compilation, and no more kept for the backward pass than is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch._functorch.config as partitioner
import torch._inductor.config as inductor
from peft import LoraConfig, get_peft_model
from torch import distributed, fx, nn
from torch._dynamo.backends.distributed import DDPOptimizer
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.parallel import DistributedDataParallel

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.batch.collate import collate
from agentsft.batch.pack import Pack
from agentsft.train.attention import Attention, visible, whole_blocks
from agentsft.train.compiled import compile_layers, save_less
from agentsft.train.model import decoder_layers
from agentsft.train.module import LossModule
from agentsft.train.tail import find_tail
from tests.batch.trees import random_tree
from tests.train.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("settings_of_torch")

HIDDEN, INNER, TOKENS, RANK = 32, 96, 40, 4


@pytest.fixture
def nothing_cached() -> Iterator[None]:
    with inductor.patch(fx_graph_cache=False), partitioner.patch(enable_autograd_cache=False):
        yield


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


def test_block_masks_of_other_packs_compile_nothing_anew_and_give_the_dense_masks_attention() -> None:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask) -> Any:
        whole_blocks(q)
        return flex_attention(q, k, v, block_mask=mask)

    compiled = torch.compile(attend, dynamic=True, backend="aot_eager")
    random, attention, frames = np.random.default_rng(5), Attention("flex", torch.device("cpu")), set()
    attention.reserve(4096)
    for trees in (2, 5, 3, 7):
        forest = Pack(tuple(random_tree(random, 300, branching=0.05) for _ in range(trees)))
        batch = collate(forest, FLEX_BLOCK, arrange=True)
        assert batch.dfs is not None
        assert batch.subtree_end is not None
        q, k, v = (torch.randn(1, 2, len(batch.dfs), 16) for _ in range(3))
        dense = visible(batch.dfs[:, None], batch.dfs[None, :], batch.subtree_end[None, :])
        with torch.no_grad():
            ours = compiled(q, k, v, attention.arguments(batch)["attention_mask"])
        expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=dense)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        frames.add(counters["frames"]["total"])
    assert len(frames) == 1


def test_other_numbers_of_trained_rows_compile_nothing_anew() -> None:
    model, random = tiny_model("llama"), np.random.default_rng(7)
    tail = find_tail(model)
    assert tail is not None
    assert tail.feed_forward is not None
    compile_layers(model, norm=tail.norm)
    module = LossModule(model, Attention("mask", torch.device("cpu")), tail=tail)
    frames, rows = [], set()
    for trees in (9, 3, 12, 6):
        batch = collate(Pack(tuple(random_tree(random, 90, branching=0.2) for _ in range(trees))), 128)
        module(batch)[0].backward()
        frames.append(counters["frames"]["total"])
        rows.add(len(batch.tail))
    assert frames[0] == frames[-1] > 0
    assert len(rows) > 1


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


@pytest.mark.usefixtures("nothing_cached")
def test_an_adapters_scaling_makes_no_second_copy_of_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:

    def gradients(compiled: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        lora = LoraConfig(target_modules="all-linear", r=RANK, lora_alpha=12, init_lora_weights=False)
        model = get_peft_model(tiny_model("qwen3"), lora)
        if compiled:
            compile_layers(model)
            custom = inductor.joint_custom_post_pass
            assert custom is not None
            plain = type(custom).__call__
            monkeypatch.setattr(
                type(custom), "__call__", lambda self, graph: (before(graph), plain(self, graph), graphs.append(graph))
            )
        hidden = model.get_base_model().model(torch.arange(256)[None] % 50).last_hidden_state
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def before(graph: fx.Graph) -> None:
        scaled.append(len(scalings(graph)))

    graphs: list[fx.Graph] = []
    scaled: list[int] = []
    ours, expected = gradients(compiled=True), gradients(compiled=False)
    assert set(scaled) == {7}  # the linear layers of a decoder layer
    assert [scalings(graph) for graph in graphs] == [[]] * len(graphs)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


def scalings(graph: fx.Graph) -> list[fx.Node]:
    """Products of a layer's width with one number that are there for matrix products alone."""
    found = []
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor):
        readers = [user for view in node.users for user in (view.users if "view" in str(view.target) else [view])]
        numbers = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.meta["val"].ndim == 0]
        wide = node.meta["val"].shape[-1] > RANK
        if (
            wide
            and numbers
            and readers
            and all("mm" in str(user.target) or "permute" in str(user.target) for user in readers)
        ):
            found.append(node)
    return found
