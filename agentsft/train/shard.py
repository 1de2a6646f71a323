"""FSDP2: every process has a share of weights, gradients and optimizer state; one decoder layer is whole at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, patch_environment
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train.attention import Attention
from agentsft.train.launch import Sharding
from agentsft.train.model import decoder_layers, load_model
from agentsft.train.module import LossModule

MOST_GRADIENTS = 0.25
"""Share of a GPU's memory up to which whole gradients may wait there for the last pass of a step."""


def sharded_module(
    config: TrainConfig, accelerator: Accelerator, precision: str, sharding: Sharding, checkpoint: Path | None
) -> LossModule:
    """The model of `config` with its loss, sharded over all processes, with the weights (or adapter) of `checkpoint`.

    The main process reads the weights into host memory and sends them one by one; nowhere else, and on no GPU, is the
    model ever whole. Raises UserError as `load_model` does, on every process.
    """
    device = accelerator.device
    answer: list[Any] = [None]
    source = None
    if accelerator.is_main_process:
        try:
            with patch_environment(accelerate_use_fsdp="false"):  # else Transformers takes part in the sharding
                source = load_model(config, device, precision, checkpoint, torch.device("cpu"))
        except UserError as error:
            answer = [error]
    [failed] = broadcast_object_list(answer)
    if failed is not None:
        raise failed
    model = load_model(config, device, precision, None, torch.device("meta"))
    module = LossModule(model, Attention("rows", device))
    shard(module, sharding, device, precision)
    _fill(model, source, accelerator)
    return module


def shard(module: LossModule, sharding: Sharding, device: torch.device, precision: str) -> None:
    """Shards `module` over all processes: each decoder layer by itself, and what is left (embeddings, last norm, head)
    as one group, whole from the beginning of a forward pass to the end of its backward pass.

    Weights that are on the meta device get memory there, without values. Products are computed in `precision`;
    gradients are averaged over the processes in float32.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    computed = {"bf16": torch.bfloat16}.get(precision)
    # Autocast decides what is computed in 16 bits, as without FSDP2, so inputs stay what they are.
    policy = MixedPrecisionPolicy(computed, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(module.model) or ():
        fully_shard(layer, mesh=mesh, reshard_after_forward=sharding.reshard, mp_policy=policy)
    fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device=device)
    register_fsdp_forward_method(module, "ask")


@torch.no_grad()
def _fill(model: Any, source: Any, accelerator: Accelerator) -> None:
    """Copies all parameters and buffers of `source`, which the main process alone has, into the sharded `model`."""
    main = accelerator.is_main_process
    named = _named(model)
    theirs = _named(source) if main else {}
    kinds = {name: (tuple(value.shape), value.dtype) for name, value in named.items()}
    [expected] = broadcast_object_list([{n: (tuple(value.shape), value.dtype) for n, value in theirs.items()}])
    wrong = sorted(name for name in kinds.keys() | expected.keys() if kinds.get(name) != expected.get(name))
    if any(gather_object([len(wrong)])):
        raise UserError(f"fsdp: the loaded model is not that of its configuration ({', '.join(wrong[:3])}); use DDP.")
    for name, value in named.items():
        whole = torch.empty(value.shape, dtype=value.dtype, device=accelerator.device)
        if main:
            whole.copy_(theirs[name])
        distributed.broadcast(whole, 0)
        local, offset = own_part(value)
        local.copy_(whole[slices(offset, local.shape)])


def _named(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return {**dict(model.named_parameters()), **{f"buffer {name}": value for name, value in model.named_buffers()}}


def own_part(value: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """What this process holds of `value`, in the same memory, and where it begins in the whole tensor."""
    value = value.detach()
    if not isinstance(value, DTensor):
        return value, (0,) * value.ndim
    assert value.placements == (Shard(0),), value.placements
    rows, mesh = value.shape[0], value.device_mesh
    first = min(-(-rows // mesh.size()) * mesh.get_local_rank(), rows)
    return value.to_local(), (first, *(0,) * (value.ndim - 1))


def like(local: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """`local` as this process's part of a tensor that is laid out as `whole` is."""
    if not isinstance(whole, DTensor):
        return local
    local = local.to(whole.device)
    return DTensor.from_local(
        local, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def slices(offset: tuple[int, ...], shape: torch.Size | tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))


def reshard(module: nn.Module) -> None:
    """Frees the whole weights that a pass without a backward pass has left."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole_weights(model: Any, main: bool) -> dict[str, torch.Tensor]:
    """The state dict of a sharded model in host memory, of an adapter what is trained; empty but on the main process.

    Every process calls it. One tensor at a time is whole on the GPUs.
    """
    adapter = hasattr(model, "peft_config")
    whole: dict[int, torch.Tensor] = {}  # tied weights are one
    found = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if adapter and isinstance(value, nn.Parameter) and not value.requires_grad:
            continue
        if id(value) not in whole:
            full = _whole(value.detach())
            whole[id(value)] = full.cpu() if main else full.new_empty(0)
        found[name] = whole[id(value)]
    return found if main else {}


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def gradient_norm(parameters: list[nn.Parameter]) -> torch.Tensor:
    """The norm of all gradients, over all shards."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return _whole(norm)


def clip(parameters: list[nn.Parameter], limit: float) -> torch.Tensor:
    """Scales gradients down to the norm `limit`. Gives their norm before, over all shards."""
    norm = gradient_norm(parameters)
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)  # as torch.nn.utils.clip_grad_norm_ has it
    torch._foreach_mul_([own_part(p.grad)[0] for p in parameters if p.grad is not None], factor)
    return norm


def sync_each_batch(config: TrainConfig, trainable: int, device: torch.device) -> bool:
    """Whether gradients are exchanged after each pass, as the setting says, else by what whole ones would take.

    Until they are exchanged every process keeps all `trainable` gradients, in float32.
    """
    if config.sync_each_batch is not None:
        return config.sync_each_batch
    if device.type != "cuda":
        return False
    return 4 * trainable > MOST_GRADIENTS * torch.cuda.get_device_properties(device).total_memory


def sharding_note(world: int, sync_each: bool) -> str:
    when = "after each pass" if sync_each else "once a step"
    return f"FSDP2: weights and optimizer state are shared by {world} processes; gradients are exchanged {when}."
