"""The work of a run: steps, tokens and packs, by the run's own packing of a sample of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.batch.collate import padded_to
from agentsft.batch.order import step_indices, total_steps
from agentsft.batch.pack import Planner
from agentsft.config import TrainConfig
from agentsft.plan.shape import Shape
from agentsft.types import TokenTree

STEPS = 16
"""Steps that are packed; the others are taken to be like them."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one optimizer step takes on average, and how many there are.

    `tokens` are those of the conversations' trees, `computed` those that remain where conversations begin alike,
    `trained` the targets; `passes` are forward passes of one GPU, the largest of `pack` tokens with its padding, and
    `fill` the share of all passes' tokens that is no padding. `flops` are those of all GPUs together, `attention` what
    pairs of tokens take of them, `balance` the share of the time of the slowest GPU that the mean one is busy.
    `longest` is the longest path, in tokens.
    """

    conversations: int
    steps: int
    tokens: float
    computed: float
    trained: float
    passes: float
    pack: int
    fill: float
    flops: float
    attention: float
    balance: float
    longest: int


def plan_work(config: TrainConfig, shape: Shape, trees: Sequence[TokenTree], conversations: int, gpus: int) -> Work:
    """The work of a run over `conversations`, of which `trees` are all or a fair sample, on `gpus` GPUs."""
    steps = total_steps(conversations, config.batch_size, config.num_train_epochs, config.max_steps)
    size = min(config.batch_size, len(trees))
    sample = [
        [trees[int(k)] for k in step_indices(config.seed, step, len(trees), size)]
        for step in range(min(steps, STEPS, max(len(trees) // size, 1)))
    ]
    planner = _planner(config, shape, gpus)
    plans = [planner.plan(step) for step in sample]
    sizes = [padded_to(pack.size, FLEX_BLOCK) for plan in plans for pack in plan.packs]
    passes = float(np.mean([len(plan.ranks[0]) for plan in plans]))
    packed = [tree for plan in plans for pack in plan.packs for tree in pack.trees]
    computed = float(np.mean([plan.tokens for plan in plans]))
    costs = np.array([[sum(planner.cost(p.trees) for p in rank) for rank in plan.ranks] for plan in plans])
    return Work(
        conversations=conversations,
        steps=steps,
        tokens=float(np.mean([plan.tree_tokens for plan in plans])) * config.batch_size / size,
        computed=computed * config.batch_size / size,
        trained=float(np.mean([plan.num_items for plan in plans])) * config.batch_size / size,
        passes=passes * config.batch_size / size,
        pack=max(sizes),
        fill=computed * len(plans) / sum(sizes),
        flops=shape.flops.count(packed) / len(plans) * config.batch_size / size,
        attention=sum(map(shape.flops.attention, packed)) / len(plans) * config.batch_size / size,
        balance=float(costs.mean(axis=1).sum() / max(costs.max(axis=1).sum(), 1e-9)),
        longest=max(int(tree.position_ids.max()) + 1 for tree in trees),
    )


def _planner(config: TrainConfig, shape: Shape, gpus: int) -> Planner:
    """The planner that such a run has on CUDA."""
    split = config.layout == "split"
    budget, pairs = config.micro_batch_tokens, shape.flops.pair_cost
    return Planner(budget, budget, gpus, split, False, pairs, config.share_prefixes is not False and not split)
