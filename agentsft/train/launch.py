"""What the launcher asks for: DDP, or FSDP2 by a setting or by Accelerate. Needs no torch, so that it is said early."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from agentsft.config import TrainConfig
from agentsft.errors import UserError

OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "Accelerate's ParallelismConfig",
}
"""Engines that Accelerate can be configured for, by the variable with which its launcher says so."""


@dataclass(frozen=True)
class Sharding:
    """How FSDP2 shards. `reshard`: the layers' whole weights are freed between a forward pass and its backward pass."""

    reshard: bool = True
    checkpointing: bool = False
    """The launcher asks for gradient checkpointing."""


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Where the environment says how torch divides a GPU's memory."""


def expandable_memory() -> None:
    """Lets what torch has taken of a GPU's memory grow in place, unless the environment says otherwise.

    Packs are of many lengths: what lies between tensors of one length is too small for those of another, and torch
    would take ever more, or give all back and start anew. Drivers under WSL 2 and for a part of a GPU (MIG) cannot do
    it. To be called before torch is imported.
    """
    unable = sys.platform != "linux" or "microsoft" in os.uname().release.lower()
    unable = unable or "MIG" in os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not unable and not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def processes() -> int:
    """How many processes the launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def asked_sharding(config: TrainConfig) -> Sharding | None:
    """How the run is to be sharded; None for DDP or a single process.

    `accelerate launch --use_fsdp --fsdp_version 2` and the setting `fsdp` ask for the same. Raises UserError for an
    engine or an option of the launcher that is not used.
    """
    for variable, engine in OTHERS.items():
        if _flag(variable):
            raise UserError(
                f"{engine} is not used by agentsft: launch with accelerate launch --use_fsdp --fsdp_version 2, which "
                "shards weights, gradients and optimizer state as ZeRO-3 does."
            )
    launcher = _flag("ACCELERATE_USE_FSDP")
    if launcher and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("FSDP version 1 is not used by agentsft: add --fsdp_version 2 to accelerate launch.")
    if launcher and _flag("FSDP_OFFLOAD_PARAMS"):
        raise UserError("fsdp_offload_params: weights stay on the GPUs; take more GPUs, or set tuner: lora.")
    if not (launcher or config.fsdp) or processes() == 1:
        return None
    for name, values in {"precision": ("fp16",), "load_in_4bit": (True,), "fp8": ("tensorwise", "rowwise")}.items():
        if (value := getattr(config, name)) in values:
            raise UserError(f"{name}: {str(value).lower()} does not work with FSDP2; launch with DDP, or leave it out.")
    if config.eval_generate:
        raise UserError("eval_generate does not work with FSDP2: let agentsft eval generate with the finished model.")
    kept = launcher and os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in ("false", "no_reshard")
    return Sharding(reshard=not kept, checkpointing=launcher and _flag("FSDP_ACTIVATION_CHECKPOINTING"))


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
