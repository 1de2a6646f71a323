"""Work, shape and GPU put together: how long, how much memory, at what cost, and what to change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentsft.config import TrainConfig, check_together
from agentsft.errors import UserError
from agentsft.plan.gpus import AHEAD, USABLE, Gpu
from agentsft.plan.memory import GIB, Memory, host_bytes, memory
from agentsft.plan.shape import Shape, load_shape
from agentsft.plan.work import Work, plan_work
from agentsft.train.shard import MOST_GRADIENTS
from agentsft.types import TokenTree

LARGER = (1.5, 2.0, 3.0, 4.0)
"""How many times larger packs are tried."""

WORTH = 0.97
"""What share of the time a larger pack must come to, to be told."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds are for the whole run at the lowest, the usual and the highest measured utilisation.

    `exchange` are those in which GPUs exchange gradients (and weights), were they to do nothing else then; they are
    not part of `seconds`, since they run beside the last pass as far as they fit. `host` are the bytes of host memory
    that each GPU's process takes for offloaded activations. `changes` are settings with which it would fit, each with
    its memory in GiB; `faster` one with which a plan that fits would take less time: the setting, what share of the
    time, and GiB.
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
    host: float
    changes: tuple[tuple[str, float], ...]
    faster: tuple[str, float, float] | None = None


def make_plan(
    config: TrainConfig, trees: Sequence[TokenTree], conversations: int, gpu: Gpu, gpus: int = 1, sharded: bool = False
) -> Plan:
    """The plan of a run of `config` over `conversations`, of which `trees` are all or a fair sample.

    `sharded`, or the setting fsdp, divides weights, gradients and optimizer state among the GPUs (FSDP2). Raises
    UserError where the model's configuration cannot be read, and for settings that do not go together.
    """
    check_together(config, run=False)
    sharded = sharded or config.fsdp
    if sharded and gpus > 1 and config.load_in_4bit:
        raise UserError("load_in_4bit does not work with FSDP2: leave that out, and each GPU has a whole base.")
    shape = load_shape(config)
    work = plan_work(config, shape, trees, conversations, gpus)
    shards = gpus if sharded else 1
    if config.sync_each_batch is None or work.passes <= 1:  # as a run decides it; a single pass leaves nothing to wait
        each = work.passes <= 1 or 4 * shape.trainable > MOST_GRADIENTS * gpu.memory * GIB
        config = replace(config, sync_each_batch=each)
    needed = _needed(config, shape, work.pack, shards)
    lowest, usual, highest = (
        work.steps * _timed(config, shape, work) / (gpus * work.balance * gpu.peak * share) for share in gpu.utilisation
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
        exchange=work.steps * _exchanged(config, shape, work, gpus, sharded) / gpu.bandwidth(gpus),
        fits=fits,
        host=host_bytes(shape, work.pack) if config.activation_offloading else 0.0,
        changes=() if fits else tuple(_changes(config, shape, work, gpu, gpus, sharded)),
        faster=_faster(config, shape, work, gpu, gpus, shards, trees, conversations) if fits else None,
    )


def _faster(
    config: TrainConfig,
    shape: Shape,
    work: Work,
    gpu: Gpu,
    gpus: int,
    shards: int,
    trees: Sequence[TokenTree],
    conversations: int,
) -> tuple[str, float, float] | None:
    """The larger pack that fits and takes least time, where that is WORTH it: more conversations share a beginning."""
    best: tuple[str, float, float] | None = None
    for factor in LARGER:
        larger = replace(config, micro_batch_tokens=int(factor * config.micro_batch_tokens))
        more = plan_work(larger, shape, trees, conversations, gpus)
        needed = _needed(larger, shape, more.pack, shards).total
        if more.pack <= work.pack or needed > USABLE * gpu.memory * GIB:
            break
        times = _timed(larger, shape, more) / more.balance, _timed(config, shape, work) / work.balance
        share = times[0] / times[1]
        if share <= WORTH * (best[1] if best else 1.0):
            best = f"micro_batch_tokens: {larger.micro_batch_tokens}", share, needed / GIB
    return best


def _timed(config: TrainConfig, shape: Shape, work: Work) -> float:
    """A step's FLOPs as they cost time: with those that gradient checkpointing does twice, and AHEAD more a token.

    The layers' forward pass is a third of their products where all weights are trained, half where none of the base
    is, and a third of attention.
    """
    ahead = AHEAD * sum(shape.flops.windows.values()) * work.computed
    if not config.gradient_checkpointing:
        return work.flops + ahead
    again = shape.flops.per_token * work.computed / (2 if shape.adapter else 3)
    return work.flops + ahead + again + (work.attention + ahead) / 3


def _exchanged(config: TrainConfig, shape: Shape, work: Work, gpus: int, sharded: bool) -> float:
    """Bytes that a GPU sends in a step.

    Gradients in a ring: 2 (n - 1) / n of their float32 size once; half of that where each GPU keeps its share alone,
    for each pass with sync_each_batch. Weights that are shared are gathered for each forward and each backward pass,
    in bfloat16.
    """
    ring = (gpus - 1) / gpus
    gradients = 4.0 * shape.trainable * ring
    if not sharded:
        return 2 * gradients
    return gradients * (work.passes if config.sync_each_batch else 1) + 2 * work.passes * 2.0 * shape.parameters * ring


def _changes(
    config: TrainConfig, shape: Shape, work: Work, gpu: Gpu, gpus: int, sharded: bool
) -> Iterator[tuple[str, float]]:
    """The simplest changes of settings with which the run would fit, and the GiB that it would take then."""
    room, shards = USABLE * gpu.memory * GIB, gpus if sharded else 1
    pack = _largest_pack(config, shape, work, room, shards)
    checkpointed = replace(config, gradient_checkpointing=True)
    if pack:
        yield f"micro_batch_tokens: {pack}", _needed(config, shape, pack, shards).total / GIB
    elif not config.gradient_checkpointing and (pack := _largest_pack(checkpointed, shape, work, room, shards)):
        together = _needed(checkpointed, shape, pack, shards).total / GIB
        yield f"gradient_checkpointing: true, with micro_batch_tokens: {pack}", together
    found: list[set[str]] = []
    shapes = {(config.tuner, config.load_in_4bit): shape}
    for wanted in _SAVING:
        settings = {name: value for name, value in wanted.items() if getattr(config, name) != value}
        if "tuner" in settings and config.tuner != "full":
            del settings["tuner"]
        if not settings or (shards > 1 and "load_in_4bit" in settings) or any(one <= settings.keys() for one in found):
            continue
        changed = replace(config, **settings)
        key = (changed.tuner, changed.load_in_4bit)
        if key not in shapes:
            shapes[key] = load_shape(changed)
        needed = _needed(changed, shapes[key], work.pack, shards).total
        if needed <= room:
            found.append(set(settings))
            yield ", ".join(f"{name}: {_said(value)}" for name, value in settings.items()), needed / GIB
    for more in (2, 4, 8, 16, 32, 64):
        if config.load_in_4bit:
            break
        if more > shards and (needed := _needed(config, shape, work.pack, more).total) <= room:
            yield f"weights and optimizer shared by {more} GPUs (FSDP2)", needed / GIB
            break


_SAVING: tuple[dict[str, Any], ...] = (
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "activation_offloading": True},
    {"tuner": "lora"},
    {"tuner": "lora", "gradient_checkpointing": True},
    {"tuner": "lora", "gradient_checkpointing": True, "activation_offloading": True},
    {"tuner": "lora", "load_in_4bit": True},
    {"tuner": "lora", "load_in_4bit": True, "gradient_checkpointing": True},
    {"tuner": "lora", "load_in_4bit": True, "gradient_checkpointing": True, "activation_offloading": True},
)
"""Settings that save memory, what costs least first."""


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _needed(config: TrainConfig, shape: Shape, pack: int, shards: int) -> Memory:
    waiting = shards > 1 and not config.sync_each_batch
    return memory(shape, pack, config.gradient_checkpointing, shards, config.activation_offloading, waiting)


def _largest_pack(config: TrainConfig, shape: Shape, work: Work, room: float, shards: int) -> int:
    """The largest multiple of 1,024 tokens that fits and takes the longest path; 0 where there is none."""
    smallest = -(-max(work.longest, 1024) // 1024)
    packs = range(smallest, -(-work.pack // 1024))
    fitting = bisect_right(packs, room, key=lambda thousand: _needed(config, shape, 1024 * thousand, shards).total)
    return 1024 * packs[fitting - 1] if fitting else 0
