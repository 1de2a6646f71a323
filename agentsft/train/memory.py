"""What happens where memory runs out: passes are divided, and what cannot be divided says which setting to lower."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from agentsft.batch.collate import padded_to
from agentsft.batch.pack import Pack, Planner
from agentsft.config import TrainConfig
from agentsft.errors import UserError

if TYPE_CHECKING:
    from agentsft.train.loop import Run


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a GPU or the host had no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def host_memory_left() -> int:
    """Bytes of host memory that this process may still take, as Linux tells them; elsewhere no limit is known."""
    left = sys.maxsize
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return min(left, max(int(limit) - int(used), 0))
    except (OSError, ValueError, KeyError):  # no such files, or no limit in them
        return left


def divided(pack: Pack, limit: int | None) -> list[Pack]:
    """`pack` as packs of at most `limit` tokens that train the same; only a single path may exceed it."""
    if limit is None or pack.size <= limit:
        return [pack]
    return list(Planner(limit, limit, rows=pack.rows).plan(pack.trees).ranks[0])


def columns(pack: Pack, multiple: int) -> int:
    """Tokens that the forward pass of `pack` computes, padding included."""
    rows = max(len(pack.trees), 1) if pack.rows else 1
    return rows * padded_to(pack.size // rows, multiple)


def halve(run: Run, pack: Pack, reason: str) -> list[Pack]:
    """`pack`, for which memory ran out, in smaller packs; the run's later packs are no larger than these.

    Raises UserError where it cannot become smaller.
    """
    size = columns(pack, run.multiple)
    limit = size // 2
    pieces = divided(pack, limit)
    if max((columns(piece, run.multiple) for piece in pieces), default=size) >= size:
        longest = max((int(tree.position_ids.max()) + 1 for tree in pack.trees), default=1)
        raise UserError(
            f"out of memory in a pass over one path of {longest:,} tokens, which cannot be divided; "
            f"{_remedy(run.config, f'max_length: {longest // 2}')} ({reason})."
        )
    run.limit, run.halved = limit, run.halved + 1
    return pieces


def while_synchronising(run: Run, pack: Pack, reason: str) -> UserError:
    """The error where memory ran out while processes exchanged gradients or weights, which cannot be begun again."""
    lower = f"micro_batch_tokens: {max(columns(pack, run.multiple) // 2, 1)}"
    when = "under FSDP2, which cannot repeat a pass" if run.sharded else "while gradients were exchanged"
    return UserError(f"out of memory {when}; {_remedy(run.config, lower)} ({reason}).")


def outside_of_passes(config: TrainConfig, error: BaseException) -> UserError:
    """The error where memory ran out for weights, gradients or moments, which no micro-batch can help."""
    reason = " ".join(str(error).split())[:200]
    lora = "" if config.load_in_4bit else "set load_in_4bit: true, or "
    lora = "set tuner: lora, or " if config.tuner == "full" else lora
    return UserError(
        f"out of memory for weights, gradients or moments; {lora}take a smaller model or a device with more memory "
        f"({reason})."
    )


def _remedy(config: TrainConfig, lower: str) -> str:
    ways = [lower]
    if not config.gradient_checkpointing:
        ways.append("gradient_checkpointing: true")
    elif not config.activation_offloading:
        ways.append("activation_offloading: true")
    if config.tuner == "full":
        ways.append("tuner: lora")
    return f"set {' or '.join(ways)}"
