"""The loop: plan a step, run its micro-batches, clip, update, report."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.order import epochs_done, is_due, step_indices, steps_per_epoch
from agentsft.batch.pack import Pack, Planner, StepPlan
from agentsft.config import TrainConfig
from agentsft.data.mixture import GROUPS, Mixture, by_label, loss_by_source
from agentsft.errors import UserError
from agentsft.train.ahead import Ahead
from agentsft.train.flops import Flops
from agentsft.train.interrupt import Asked
from agentsft.train.metrics import finite, loss_by_label
from agentsft.train.nonfinite import NON_FINITE, culprits
from agentsft.train.optim import learning_rate
from agentsft.train.passes import Begun, backward, begin, evaluated, forget
from agentsft.train.shard import clip, reshard
from agentsft.types import LABELS, TokenTree


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a step needs of the host: its micro-batches, their FLOPs, and this rank's first pass as tensors."""

    plan: StepPlan
    flops: float
    first: tuple[Pack, MicroBatch] | None
    """The pack and its tensors."""


@dataclass
class Run:
    """Everything that a step needs. `module` and `optimizer` are as Accelerate prepared them.

    `multiple` is what packs are padded to a multiple of, `arrange` whether trees lie longest path first, `peak` the
    peak FLOP/s of all devices together, `sources` where each tree comes from, `bad_steps` the number of steps skipped
    for a NaN or infinite loss or gradient. Of this process alone: `limit`, the most tokens of a pass after memory ran
    out, `proven`, the most tokens (padding included) of a pass that went well, and `halved`, how often memory ran out
    since the last step that said so. `sharded` is for FSDP2, whose gradients are exchanged once a step, or after each
    pass where `sync_each` says so. With `overlapping` the device computes a step's first forward pass, `begun`, while
    the host ends the step before.
    """

    config: TrainConfig
    accelerator: Accelerator
    module: Any
    optimizer: Any
    trees: Sequence[TokenTree]
    planner: Planner
    multiple: int
    total_steps: int
    flops: Flops
    peak: float | None
    arrange: bool = False
    sources: Sequence[str] = field(default_factory=list)
    mixture: Mixture | None = None
    bad_steps: int = 0
    limit: int | None = None
    proven: int = 0
    halved: int = 0
    sharded: bool = False
    sync_each: bool = False
    overlapping: bool = False
    begun: Begun | None = None

    def __post_init__(self) -> None:
        self._ahead = Ahead(self._prepared)
        self._first: tuple[Pack, MicroBatch] | None = None
        self._taken: tuple[int, Prepared] | None = None

    def prepared(self, step: int) -> Prepared:
        """The plan of step number `step`, with what else `begin` has made of it."""
        if self._taken is None or self._taken[0] != step:
            self._taken = step, self._ahead.take(step)
        made = self._taken[1]
        self._first = made.first
        return made

    def begin(self, step: int) -> None:
        """Prepare a later step while the device computes this one."""
        if step < self.total_steps:
            self._ahead.begin(step)

    def _prepared(self, step: int) -> Prepared:
        plan = self.plan(step)
        packs = plan.ranks[self.accelerator.process_index]
        first = (packs[0], self.batch_of(packs[0])) if packs and plan.num_items else None
        return Prepared(plan, self.flops.count(tree for pack in plan.packs for tree in pack.trees), first)

    def batch_of(self, pack: Pack) -> MicroBatch:
        """The tensors of one pass, on the host."""
        if self._first is not None and self._first[0] is pack:
            return self._first[1]
        return collate(pack, self.multiple, self.arrange)

    def plan(self, step: int) -> StepPlan:
        """The micro-batches of step number `step` (from 0)."""
        return self.planner.plan(self.trees_of(step))

    def trees_of(self, step: int) -> list[TokenTree]:
        """The conversations of step number `step`."""
        return [self.trees[i] for i in self._indices(step)]

    def sources_of(self, step: int) -> list[str]:
        """Where the conversations of step number `step` come from."""
        return [self.sources[i] for i in self._indices(step)] if self.sources else []

    @property
    def epoch_size(self) -> int:
        """Conversations of an epoch."""
        return len(self.mixture) if self.mixture else len(self.trees)

    def _indices(self, step: int) -> np.ndarray:
        n, batch_size = self.epoch_size, self.config.batch_size
        places = step_indices(self.config.seed, step, n, batch_size)
        return self.mixture.rows(step // steps_per_epoch(n, batch_size))[places] if self.mixture else places

    def zero_grad(self) -> None:
        """Forgets the gradients. DDP's are parts of its buckets, and would be there twice if they were made anew."""
        self.optimizer.zero_grad(set_to_none=self.accelerator.num_processes == 1 or self.sharded)

    def scale(self, plan: StepPlan) -> float:
        """What a pass's loss is multiplied by, since gradients are averaged over the ranks."""
        return self.accelerator.num_processes / self.denominator(plan)

    def denominator(self, plan: StepPlan) -> float:
        """What the sum of weight * nll over all ranks is divided by."""
        return plan.num_items if self.config.normalize == "items" else plan.weights


def train_step(run: Run, step: int) -> dict[str, Any]:
    """Step number `step` (from 0): the row of metrics.jsonl. A step that cannot be taken says why in `skipped`.

    Its data, learning rate and random numbers depend on the seed and the step alone, so a resumed run repeats them.
    """
    started = time.perf_counter()
    config, n = run.config, run.epoch_size
    prepared = run.prepared(step)
    plan = prepared.plan
    rate = learning_rate(config, step, run.total_steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate

    grad_norm, sums, halved, skipped = None, [0.0] * (1 + GROUPS), 0.0, "no trained tokens"
    if plan.num_items:
        sums_on_device = backward(run, plan, _seed(config.seed, step, run.accelerator.process_index))
        run.begin(step + 1)
        norm = _update(run)
        found = _reduced(run, sums_on_device, norm)
        if run.overlapping and step + 1 < run.total_steps and not is_due(config.eval_steps, step + 1):
            following = run.prepared(step + 1).plan
            if following.num_items:
                begin(run, following)
        *sums, halved, grad_norm = found()
        skipped = "" if math.isfinite(grad_norm) else "non-finite gradient"
    seconds = time.perf_counter() - started
    row: dict[str, Any] = {
        "step": step + 1,
        "epoch": round(epochs_done(step + 1, n, config.batch_size), 6),
        "loss": finite(sums[0] / run.denominator(plan)) if plan.num_items else None,
        "learning_rate": rate,
        "grad_norm": None if grad_norm is None else finite(grad_norm),
        "num_items_in_batch": plan.num_items,
        "tokens": plan.tree_tokens,
        "trained_tokens": plan.num_items,
        "tokens_per_second": round(plan.tree_tokens / seconds, 1),
        "seconds": round(seconds, 4),
        "mfu": round(prepared.flops / seconds / run.peak, 4) if run.peak else None,
        "loss_by_label": loss_by_label(by_label(sums[1:]), by_label(plan.label_counts)),
        "micro_batches": len(plan.packs),
        "computed_tokens": plan.tokens,
        "memory_gib": _peak_memory(run.accelerator.device),
    }
    if run.mixture and run.mixture.told_apart:
        row["loss_by_source"] = loss_by_source(sums[1:], plan.label_counts, run.mixture.paths)
    if halved:
        row["out_of_memory"] = int(halved)
    if not skipped:
        return row
    row |= {"skipped": skipped, "sources": run.sources_of(step)}
    # An overflow under fp16's scaled loss is no fault: the scaler lowers its scale.
    if plan.num_items and (row["loss"] is None or run.accelerator.scaler is None):
        run.bad_steps += 1
        if run.begun is not None:
            forget(run)
        row[NON_FINITE] = culprits(run, step)
    return row


def check_bad_steps(run: Run, row: dict[str, Any]) -> None:
    """Raises UserError once max_bad_steps steps of this run were bad, naming the rows of the last one, `row`."""
    limit = run.config.max_bad_steps
    if limit and "skipped" in row and run.bad_steps >= limit:
        sources = row.get(NON_FINITE) or row["sources"]
        named = ", ".join(sources[:8]) + (f" and {len(sources) - 8} more" if len(sources) > 8 else "")
        raise UserError(
            f"max_bad_steps: {run.bad_steps} steps had a NaN or infinite loss or gradient, the last one step "
            f"{row['step']} on {named}; look at these rows, or lower learning_rate."
        )


def _update(run: Run) -> torch.Tensor:
    """Clips the gradients and applies them where they are finite. Gives their norm before clipping, on the device."""
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    limit = run.config.max_grad_norm or math.inf
    norm = clip(parameters, limit) if run.sharded else run.accelerator.clip_grad_norm_(parameters, limit)
    if run.accelerator.scaler is not None:  # it must see an overflow to lower its scale, and leaves the step out
        run.optimizer.step()
    elif run.sharded or not run.optimizer.defaults.get("fused"):
        if math.isfinite(float(norm)):
            run.optimizer.step()
    else:  # the device itself leaves the step out, so that nobody waits for the norm
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)
        optimizer.found_inf = (~torch.isfinite(norm)).float()
        run.optimizer.step()
    run.zero_grad()
    return norm.float()


def evaluate(run: Run, trees: Sequence[TokenTree], asked: Asked = lambda: 0) -> dict[str, Any] | None:
    """Held-out loss by the formula of training, over all ranks: eval_loss, eval_loss_by_label, eval_items, seconds.

    None where a signal asks the run to end before all is computed.
    """
    started = time.perf_counter()
    rank, batch_size = run.accelerator.process_index, max(run.config.batch_size, 64)
    sums = torch.zeros(1 + GROUPS, device=run.accelerator.device)
    items, denominator, counts = 0, 0.0, np.zeros(len(LABELS), np.int64)
    if run.begun is not None:
        forget(run)
    run.module.eval()
    with torch.no_grad():
        for first in range(0, len(trees), batch_size):
            if asked():
                _back_to_training(run)
                return None
            plan = run.planner.plan(trees[first : first + batch_size])
            items, counts = items + plan.num_items, counts + plan.label_counts
            denominator += run.denominator(plan)
            evaluated(run, list(plan.ranks[rank]), sums)
    _back_to_training(run)
    *total, halved = _reduced(run, sums)()
    row = {
        "eval_loss": finite(total[0] / denominator) if denominator else None,
        "eval_loss_by_label": loss_by_label(by_label(total[1:]), counts),
        "eval_items": items,
        "seconds": round(time.perf_counter() - started, 4),
    }
    return row | ({"out_of_memory": int(halved)} if halved else {})


def _back_to_training(run: Run) -> None:
    run.module.train()
    if run.sharded:
        reshard(run.module)


def _reduced(run: Run, sums: torch.Tensor, *same: torch.Tensor) -> Callable[[], list[float]]:
    """The sums over all ranks, how often memory ran out on any of them since this was last asked, and the numbers that
    are the `same` on all ranks. The host waits for the device where it calls what is given."""
    more = torch.cat([sums, sums.new_tensor([run.halved])])
    run.halved = 0
    found = torch.cat([run.accelerator.reduce(more, reduction="sum"), *(one.reshape(1) for one in same)])
    if found.device.type != "cuda":
        return found.tolist
    on_host, copied = found.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()

    def wait() -> list[float]:
        copied.synchronize()
        return on_host.tolist()

    return wait


def _peak_memory(device: torch.device) -> float:
    """GiB that this process has taken at most: of the GPU's memory, else of the machine's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint32)[0])
