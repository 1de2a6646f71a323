"""Work, shape and GPU put together: how long, how much memory, at what cost, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agentsft.config import TrainConfig
from agentsft.plan.gpus import USABLE, Gpu
from agentsft.plan.memory import GIB, Memory, memory
from agentsft.plan.shape import Shape, load_shape
from agentsft.plan.work import Work, plan_work
from agentsft.types import TokenTree


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds are for the whole run at the lowest, the usual and the highest measured utilisation.

    `exchange` are those in which GPUs exchange gradients (and weights), were they to do nothing else then; they are
    not part of `seconds`, since they run beside the last pass as far as they fit. `changes` are settings with which
    it would fit, each with its memory in GiB.
    """

    work: Work
    shape: Shape
    gpu: Gpu
    gpus: int
    sharded: bool
    memory: Memory
    seconds: tuple[float, float, float]
    exchange: float
    fits: bool
    changes: tuple[tuple[str, float], ...]


def make_plan(
    config: TrainConfig, trees: Sequence[TokenTree], conversations: int, gpu: Gpu, gpus: int = 1, sharded: bool = False
) -> Plan:
    """The plan of a run of `config` over `conversations`, of which `trees` are all or a fair sample.

    `sharded` divides weights, gradients and optimizer state among the GPUs (FSDP2). Raises UserError where the
    model's configuration cannot be read.
    """
    shape = load_shape(config)
    work = plan_work(config, shape, trees, conversations, gpus)
    shards = gpus if sharded else 1
    needed = memory(shape, work.pack, config.gradient_checkpointing, shards)
    flops = work.flops * (_recomputed(shape) if config.gradient_checkpointing else 1.0)
    lowest, usual, highest = (
        work.steps * flops / (gpus * work.balance * gpu.peak * share) for share in gpu.utilisation
    )
    fits = needed.total <= USABLE * gpu.memory * GIB
    return Plan(
        work=work,
        shape=shape,
        gpu=gpu,
        gpus=gpus,
        sharded=sharded,
        memory=needed,
        seconds=(lowest, usual, highest),
        exchange=work.steps * _exchanged(shape, work, gpus, sharded) / gpu.link,
        fits=fits,
        changes=() if fits else tuple(_changes(config, shape, work, gpu, gpus, sharded)),
    )


def _recomputed(shape: Shape) -> float:
    """What gradient checkpointing makes of a step's FLOPs: the layers' forward pass is done twice.

    It is a third of forward and backward where all weights are trained, half of it where none of the base is.
    """
    return 3 / 2 if shape.adapter else 4 / 3


def _exchanged(shape: Shape, work: Work, gpus: int, sharded: bool) -> float:
    """Bytes that a GPU sends in a step.

    Gradients once, in a ring: 2 (n - 1) / n of their float32 size, or half of that where each GPU keeps its share
    alone; weights that are shared are then gathered for each forward and each backward pass, in bfloat16.
    """
    ring = (gpus - 1) / gpus
    gradients = 4.0 * shape.trainable * ring
    if not sharded:
        return 2 * gradients
    return gradients + 2 * work.passes * 2.0 * shape.parameters * ring


def _changes(
    config: TrainConfig, shape: Shape, work: Work, gpu: Gpu, gpus: int, sharded: bool
) -> Iterator[tuple[str, float]]:
    """Single changes and pairs of them with which the run would fit, and the GiB that it would take then."""
    room = USABLE * gpu.memory * GIB
    shards = gpus if sharded else 1
    pack = _largest_pack(shape, work, room, config.gradient_checkpointing, shards)
    if pack:
        needed = memory(shape, pack, config.gradient_checkpointing, shards)
        yield f"micro_batch_tokens: {pack}", needed.total / GIB
    elif not config.gradient_checkpointing and (pack := _largest_pack(shape, work, room, True, shards)):
        together = memory(shape, pack, True, shards).total / GIB
        yield f"gradient_checkpointing: true, with micro_batch_tokens: {pack}", together
    checkpointed = memory(shape, work.pack, True, shards).total
    if not config.gradient_checkpointing and checkpointed <= room:
        yield "gradient_checkpointing: true", checkpointed / GIB
    if config.tuner == "full":
        lora = replace(config, tuner="lora")
        for checkpointing in {config.gradient_checkpointing, True}:
            needed = memory(load_shape(lora), work.pack, checkpointing, shards)
            if needed.total <= room:
                also = "" if checkpointing == config.gradient_checkpointing else ", gradient_checkpointing: true"
                yield f"tuner: lora{also}", needed.total / GIB
                break
    for more in (2, 4, 8, 16, 32, 64):
        if more > shards and (needed := memory(shape, work.pack, config.gradient_checkpointing, more)).total <= room:
            yield f"weights and optimizer shared by {more} GPUs (FSDP2)", needed.total / GIB
            break


def _largest_pack(shape: Shape, work: Work, room: float, checkpointing: bool, shards: int) -> int:
    """The largest multiple of 1,024 tokens that fits and takes the longest path; 0 where there is none."""
    empty = memory(shape, 0, checkpointing, shards).total
    each = memory(shape, 1, checkpointing, shards).total - empty
    pack = int((room - empty) / each) // 1024 * 1024
    return pack if pack >= max(work.longest, 1024) and pack < work.pack else 0
