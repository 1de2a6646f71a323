"""The forward and backward passes of one optimizer step, begun again with smaller ones where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from agentsft.batch.pack import Pack, StepPlan
from agentsft.data.mixture import GROUPS
from agentsft.train.memory import columns, divided, halve, out_of_memory, while_synchronising
from agentsft.train.module import base_model
from agentsft.train.weight_gradients import adding_up

if TYPE_CHECKING:
    from agentsft.train.loop import Run


def overlaps(device: torch.device, precision: str, model: Any) -> bool:
    """Whether a step's first pass is begun while the host ends the step before: where a GPU would wait for the host.

    Not under fp16, whose scaler may change the loss's scale meanwhile, nor with dropout, whose random numbers are drawn
    in the order of the passes.
    """
    text = base_model(model).config.get_text_config().to_dict()
    rates = [text[name] for name in text if "drop" in name] + [
        m.p for m in model.modules() if isinstance(m, nn.Dropout)
    ]
    return device.type == "cuda" and precision != "fp16" and not any(isinstance(rate, float) and rate for rate in rates)


@dataclass(frozen=True)
class Begun:
    """The forward pass of a step's first `pack`, computed by the device while the host ends the step before."""

    pack: Pack
    loss: torch.Tensor
    by_label: torch.Tensor


def begin(run: Run, plan: StepPlan) -> None:
    """Lets the device compute the first forward pass of the step of `plan`, whose `backward` comes next.

    So the device does not wait while the host looks at the step before and prepares this one. Nothing is begun where
    memory runs out, or where the pass would be divided, or exchange gradients: DDP could not be told to forget that.
    """
    packs = plan.ranks[run.accelerator.process_index]
    if not packs or (run.limit is not None and packs[0].size > run.limit):
        return
    last = _is_last(run, packs, 0)
    if last and run.accelerator.num_processes > 1:
        return
    try:
        with _exchange(run, last):
            run.begun = Begun(packs[0], *_forward(run, packs[0], run.scale(plan)))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        forget(run)
        release()


def forget(run: Run) -> None:
    """Throws away what `begin` began, for whatever else the model has to compute first; no gradient is left of it."""
    run.begun = None
    run.accelerator.unwrap_model(run.module).end_pass()
    run.zero_grad()


def backward(run: Run, plan: StepPlan, seed: int | None = None) -> torch.Tensor:
    """Gradients of the step's loss, synchronised once. Gives this rank's sums: weight * nll, then nll by label.

    `seed` is that of the step's random numbers. Where memory runs out, all gradients of this rank are thrown away, so
    that nothing of the failed pass is left in them, and the step begins anew with packs of half the size. Other ranks
    need not know: only one pass of each exchanges gradients. It is one of a size that has gone well before, or an
    empty one after all others, since a failure in the middle of the exchange could not be undone. Under FSDP2 every
    pass needs all ranks, so there it is an error.
    """
    scale = run.scale(plan)
    while True:
        if seed is not None:
            torch.manual_seed(seed)
        packs = [small for pack in plan.ranks[run.accelerator.process_index] for small in divided(pack, run.limit)]
        if run.begun is not None and not any(run.begun.pack is pack for pack in packs[:1]):
            forget(run)
        sums = torch.zeros(1 + GROUPS, device=run.accelerator.device)
        failed = _all(run, packs, scale, sums)
        if failed is None:
            return sums
        run.zero_grad()
        release()
        halve(run, *failed)


def _all(run: Run, packs: list[Pack], scale: float, sums: torch.Tensor) -> tuple[Pack, str] | None:
    """All passes, added to `sums`; where memory ran out in one, its pack and the reason."""
    for number, pack in enumerate(packs):
        last = _is_last(run, packs, number)
        if failed := _one(run, pack, scale, sums, last):
            return pack, failed
        run.proven = max(run.proven, columns(pack, run.multiple))
        if last:
            return None
    _one(run, Pack((), rows=packs[-1].rows if packs else False), scale, sums, last=True)
    return None


def _is_last(run: Run, packs: Sequence[Pack], number: int) -> bool:
    """Whether gradients are exchanged with this pass, since it is known to go well, or there is nobody else."""
    if number < len(packs) - 1:
        return False
    pack, alone = packs[number], run.accelerator.num_processes == 1 or run.sharded
    return alone or not pack.trees or columns(pack, run.multiple) <= run.proven


def _exchange(run: Run, last: bool) -> AbstractContextManager[Any]:
    """Around forward and backward pass: whether DDP exchanges gradients then."""
    return nullcontext() if run.sharded or last else run.accelerator.no_sync(run.module)


def _one(run: Run, pack: Pack, scale: float, sums: torch.Tensor, last: bool) -> str:
    """One pass; the reason where memory ran out, which must not outlive the error, since that holds the activations."""
    exchanging = run.sharded
    begun, run.begun = run.begun, None
    try:
        if run.sharded:
            run.module.set_requires_gradient_sync(last or run.sync_each)
        with _exchange(run, last):
            if begun is not None:
                loss, by_label = begun.loss, begun.by_label
            else:
                loss, by_label = _forward(run, pack, scale)
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
        begun = None
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
    """Loss and losses by label, without the scale, which fp16's scaler would multiply once more."""
    known = scale if run.accelerator.scaler is None else None
    return run.module(run.batch_of(pack).to(run.accelerator.device), known)


def release() -> None:
    """Gives back what a failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
