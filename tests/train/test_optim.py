from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from agentsft.batch.split import chains
from agentsft.config import TrainConfig
from agentsft.train.flops import Flops
from agentsft.train.model import parameter_counts, with_adapter
from agentsft.train.optim import learning_rate, make_optimizer
from tests.batch.trees import random_tree
from tests.train.tiny import tiny_model


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_follows_the_schedule(kind: str) -> None:
    config = TrainConfig(learning_rate=2.0, lr_scheduler_type=kind, warmup_ratio=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx({"cosine": 1.0, "linear": 1.0, "constant": 2.0}[kind])
    assert rates[-1] > 0
    assert learning_rate(TrainConfig(learning_rate=2.0, warmup_steps=0), 0, 100) == 2.0


def test_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Embedding(2, 3))
    groups = make_optimizer(TrainConfig(weight_decay=0.1, learning_rate=1.0), module).param_groups
    assert [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in groups] == [(0.1, {2}), (0.0, {1})]


def test_flops_are_counted_over_real_tokens_allowed_pairs_and_trained_rows() -> None:
    tree = random_tree(np.random.default_rng(0), 50, branching=0.2)
    model = tiny_model("qwen3")
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128  # query and output, key and value, MLP
    pairs = sum(len(path) for path in (range(depth + 1) for depth in tree.position_ids))
    rows = len(np.unique(tree.source))
    expected = 6 * 2 * layer * 50 + 6 * 300 * 64 * rows + 12 * 64 * 2 * pairs
    assert Flops(model).count([tree]) == expected
    assert Flops(model).count(chains(tree)) > expected

    adapted = with_adapter(TrainConfig(tuner="lora", lora_rank=2), model, None)
    trainable, _ = parameter_counts(adapted)
    expected = (4 * 2 * layer + 6 * trainable) * 50 + 4 * 300 * 64 * rows + 12 * 64 * 2 * pairs
    assert Flops(adapted).count([tree]) == expected


def test_attention_in_a_window_counts_the_windows_pairs() -> None:
    tree = random_tree(np.random.default_rng(0), 50, branching=0)
    flops = Flops(tiny_model("gemma2"))
    without = flops.per_token * 50 + flops.per_row * len(np.unique(tree.source))
    pairs = 50 * 51 // 2 + (8 * 9 // 2 + 42 * 8)
    assert flops.count([tree]) - without == 12 * 64 * pairs


def test_moments_are_those_of_adamw() -> None:
    torch.manual_seed(0)
    weight = nn.Linear(3, 3, bias=False)
    start = weight.weight.detach().clone()
    optimizer = make_optimizer(TrainConfig(learning_rate=0.1, adam_epsilon=0.0), weight)
    weight(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight.weight.detach(), start - 0.1)
