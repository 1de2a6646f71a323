"""Accelerate, as the steps use it: the state of a run's processes, and what it wraps around module and optimizer."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env, patch_environment

from agentsft.config import TrainConfig
from agentsft.train.launch import Sharding
from agentsft.train.model import resolve_precision
from agentsft.train.module import LossModule


def accelerator_for(config: TrainConfig) -> tuple[Accelerator, str]:
    """Accelerate's state for a run, and the precision resolved: fp32, bf16 or fp16. Raises UserError as that does."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    precision = resolve_precision(config.precision, PartialState(cpu=on_cpu).device)
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    mixed = "no" if precision == "fp32" else precision
    # FSDP2 is applied by `shard`, layer by layer, so that Accelerate prepares nothing but autocast for it.
    with patch_environment(accelerate_use_fsdp="false"):
        return Accelerator(cpu=on_cpu, mixed_precision=mixed, kwargs_handlers=[ddp_settings()]), precision


def prepared(accelerator: Accelerator, module: LossModule, optimizer: Any, sharding: Sharding | None) -> Any:
    """Module and optimizer as the steps use them: under DDP, or with autocast alone where FSDP2 has sharded them."""
    if sharding is None:
        return accelerator.prepare(module, optimizer)
    wrapped = accelerator.prepare_model(module, device_placement=False, evaluation_mode=True)
    return wrapped, accelerator.prepare_optimizer(optimizer, device_placement=False)


def ddp_settings() -> DistributedDataParallelKwargs:
    """Ranks exchange gradients and nothing else, so that one that has to begin a step again keeps no other waiting."""
    return DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
