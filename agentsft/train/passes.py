"""The forward and backward passes of one optimizer step, begun again with smaller ones where memory runs out."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from agentsft.batch.pack import Pack, StepPlan
from agentsft.data.mixture import GROUPS
from agentsft.train.memory import columns, divided, halve, out_of_memory, while_synchronising
from agentsft.train.weight_gradients import adding_up

if TYPE_CHECKING:
    from agentsft.train.loop import Run


def backward(run: Run, plan: StepPlan, seed: int | None = None) -> torch.Tensor:
    """Gradients of the step's loss, synchronised once. Gives this rank's sums: weight * nll, then nll by label.

    `seed` is that of the step's random numbers. Where memory runs out, all gradients of this rank are thrown away, so
    that nothing of the failed pass is left in them, and the step begins anew with packs of half the size. Other ranks
    need not know: only one pass of each exchanges gradients. It is one of a size that has gone well before, or an
    empty one after all others, since a failure in the middle of the exchange could not be undone. Under FSDP2 every
    pass needs all ranks, so there it is an error.
    """
    scale = run.accelerator.num_processes / run.denominator(plan)  # gradients are averaged over the ranks
    while True:
        if seed is not None:
            torch.manual_seed(seed)
        packs = [small for pack in plan.ranks[run.accelerator.process_index] for small in divided(pack, run.limit)]
        sums = torch.zeros(1 + GROUPS, device=run.accelerator.device)
        failed = _all(run, packs, scale, sums)
        if failed is None:
            return sums
        run.zero_grad()
        release()
        halve(run, *failed)


def _all(run: Run, packs: list[Pack], scale: float, sums: torch.Tensor) -> tuple[Pack, str] | None:
    """All passes, added to `sums`; where memory ran out in one, its pack and the reason."""
    alone = run.accelerator.num_processes == 1 or run.sharded
    for number, pack in enumerate(packs):
        size = columns(pack, run.multiple)
        last = number == len(packs) - 1 and (alone or not pack.trees or size <= run.proven)
        if failed := _one(run, pack, scale, sums, last):
            return pack, failed
        run.proven = max(run.proven, size)
        if last:
            return None
    _one(run, Pack((), rows=packs[-1].rows if packs else False), scale, sums, last=True)
    return None


def _one(run: Run, pack: Pack, scale: float, sums: torch.Tensor, last: bool) -> str:
    """One pass; the reason where memory ran out, which must not outlive the error, since that holds the activations."""
    exchanging = run.sharded
    known = scale if run.accelerator.scaler is None else None  # fp16's scaler multiplies the loss once more
    try:
        if run.sharded:
            run.module.set_requires_gradient_sync(last or run.sync_each)
        with nullcontext() if run.sharded or last else run.accelerator.no_sync(run.module):
            loss, by_label = _forward(run, pack, known)
            exchanging = run.sharded or (last and run.accelerator.num_processes > 1)
            with adding_up([] if run.sharded else run.module.parameters()):
                run.accelerator.backward(loss * scale)
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        if not out_of_memory(error):
            raise
        if exchanging or not pack.trees:
            raise while_synchronising(run, pack, reason) from None
        return reason or "out of memory"
    finally:
        run.accelerator.unwrap_model(run.module).end_pass()
    sums[0] += loss.detach()
    sums[1:] += by_label
    return ""


def evaluated(run: Run, packs: list[Pack], sums: torch.Tensor) -> None:
    """Adds the losses of `packs`, without gradients, to `sums`; packs for which memory runs out are halved."""
    waiting = [small for pack in reversed(packs) for small in reversed(divided(pack, run.limit))]
    while waiting:
        pack, failed = waiting.pop(), ""
        try:
            loss, by_label = _forward(run, pack)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if run.sharded:
                raise while_synchronising(run, pack, " ".join(str(error).split())[:200]) from None
            failed = " ".join(str(error).split())[:200] or "out of memory"
        if failed:
            release()
            waiting += reversed(halve(run, pack, failed))
        else:
            sums[0] += loss
            sums[1:] += by_label


def _forward(run: Run, pack: Pack, scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    return run.module(run.batch_of(pack).to(run.accelerator.device), scale)


def release() -> None:
    """Gives back what a failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
