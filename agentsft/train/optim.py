"""AdamW and its learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from agentsft.config import TrainConfig


def make_optimizer(config: TrainConfig, module: nn.Module) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters; norms, biases and other vectors are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate or 0.0,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def default_learning_rate(tuner: str) -> float:
    return 2e-5 if tuner == "full" else 2e-4


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate of step number `step` (from 0) of `total`: a linear warm-up to the peak, then the schedule.

    The first step has peak / warm-up steps, not zero; cosine and linear would reach zero one step after the last.
    """
    peak = config.learning_rate or 0.0
    warmup = config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.lr_scheduler_type == "constant":
        return peak
    progress = (step - warmup) / max(total - warmup, 1)
    return peak * ((1 - progress) if config.lr_scheduler_type == "linear" else (1 + math.cos(math.pi * progress)) / 2)
