"""Rows that the loss does not read are left out behind the last attention, and nothing else changes by that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GptOssConfig, Qwen3MoeConfig

from agentsft.batch.collate import collate
from agentsft.batch.pack import Pack
from agentsft.config import TrainConfig
from agentsft.train.attention import Attention
from agentsft.train.flops import Flops
from agentsft.train.model import checkpoint_activations, decoder_layers, with_adapter
from agentsft.train.module import LossModule, base_model, decode
from agentsft.train.tail import find_tail, last_feed_forward
from agentsft.types import TokenTree
from tests.batch.trees import random_tree
from tests.train.tiny import CONFIGS, SHAPE, tiny_model


def trees(number: int = 3) -> list[TokenTree]:
    random = np.random.default_rng(7)
    return [random_tree(random, 30, branching=0.2) for _ in range(number)]


def gradients(model: Any, tail: bool, multiple: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    found = find_tail(base_model(model)) if tail else None
    module = LossModule(model, Attention("mask", torch.device("cpu")), tail=found)
    base_model(model).set_attn_implementation("agentsft")
    loss, _ = module(collate(Pack(tuple(trees())), multiple))
    loss.backward()
    kept = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return float(loss.detach()), kept


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_tiny_model_has_a_tail(name: str) -> None:
    model = tiny_model(name)
    tail = find_tail(model)
    assert tail is not None
    assert tail.feed_forward is last_feed_forward(model)


EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.mark.parametrize(
    ("config", "feed_forward"),
    [
        (GPTNeoXConfig(**SHAPE), True),  # attention and feed-forward part side by side
        (Qwen3MoeConfig(**SHAPE | EXPERTS), True),
        (GptOssConfig(**SHAPE | EXPERTS, head_dim=16), False),  # its experts give more than a tensor
    ],
)
def test_other_architectures_have_as_much_of_a_tail_as_is_exact(config: Any, feed_forward: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tail = find_tail(model)
    assert tail is not None
    assert (tail.feed_forward is not None) == feed_forward


@pytest.mark.parametrize("way", ["plain", "checkpointed", "blocks", "lora"])
def test_loss_and_gradients_are_those_of_all_rows(way: str) -> None:
    def model() -> Any:
        made = tiny_model("qwen3")
        if way == "checkpointed":
            checkpoint_activations(made)
        return with_adapter(TrainConfig(tuner="lora", lora_rank=2), made, None) if way == "lora" else made

    multiple = 64 if way == "blocks" else 1
    loss, expected = gradients(model(), tail=False)
    found, ours = gradients(model(), tail=True, multiple=multiple)
    assert found == pytest.approx(loss, rel=1e-6)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


def test_the_last_feed_forward_part_and_norm_see_the_sources_alone() -> None:
    model = tiny_model("qwen3")
    tail = find_tail(model)
    assert tail is not None
    seen: dict[str, int] = {}
    layers = decoder_layers(model)
    assert layers is not None
    for name, part in {"first": layers[0].mlp.down_proj, "last": layers[-1].mlp.down_proj}.items():
        part.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, args[0].shape[1]))
    batch = collate(Pack(tuple(trees())))
    hidden = decode(model.get_decoder(), batch, Attention("mask", torch.device("cpu")), batch.tail)
    assert seen == {"first": batch.input_ids.shape[1], "last": len(batch.rows)}
    assert hidden.shape[1] == len(batch.rows) < batch.input_ids.shape[1]


def test_a_pass_of_the_model_itself_has_all_rows_again() -> None:
    model = tiny_model("qwen3").eval()
    ids = torch.arange(40)[None]
    expected = model(ids).logits
    gradients(model.train(), tail=True)
    torch.testing.assert_close(model.eval()(ids).logits, expected)


class Mixing(nn.Module):
    """A part that is not the same for each token by itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.inner(hidden.roll(1, dims=1))


def test_parts_that_mix_tokens_are_left_as_they_are() -> None:
    model = tiny_model("qwen3")
    layers = decoder_layers(model)
    assert layers is not None
    layers[-1].mlp = Mixing(layers[-1].mlp)
    tail = find_tail(model)
    assert tail is not None
    assert tail.feed_forward is None
    tail.remove()
    model.model.norm = Mixing(model.model.norm)
    assert find_tail(model) is None
    plain = tiny_model("qwen3").eval()
    forward = [module.forward for module in plain.modules()]
    found = find_tail(plain)
    assert found is not None
    found.remove()
    assert [module.forward for module in plain.modules()] == forward


def test_flops_are_counted_where_they_are_computed() -> None:
    model, tree = tiny_model("qwen3"), trees(1)[0]
    rows = len(np.unique(tree.source))
    feed_forward = 3 * 64 * 128
    less = Flops(model).count([tree]) - Flops(model, last_feed_forward(model)).count([tree])
    assert less == 6 * feed_forward * (len(tree) - rows)
