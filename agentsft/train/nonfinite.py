"""Which conversations make a step's loss or gradient NaN or infinite: each of them is computed by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from agentsft.batch.collate import collate
from agentsft.train.memory import divided, out_of_memory
from agentsft.train.shard import gradient_norm
from agentsft.types import TokenTree

if TYPE_CHECKING:
    from agentsft.train.loop import Run

NON_FINITE, STEP_SKIPPED = "non_finite", "step_skipped"
"""Reasons in ledger.jsonl: of the conversations at fault, and of those that were in the same step."""


def culprits(run: Run, step: int) -> list[str]:
    """The sources of step number `step` (from 0) whose own loss or gradient is NaN or infinite, on every rank the same.

    All of the step's where each is finite by itself. To be called by every rank after the step was skipped, while the
    weights are those that it failed with; no gradient is left behind.
    """
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    if run.sharded:  # no rank computes anything by itself: all of them compute each conversation
        rank, world = 0, 1
    found = [
        number for number, tree in enumerate(run.trees_of(step)) if number % world == rank and not _is_finite(run, tree)
    ]
    sources = run.sources_of(step)
    everywhere = found if run.sharded else gather_object(found)
    return [sources[number] for number in sorted(everywhere)] or sources


def _is_finite(run: Run, tree: TokenTree) -> bool:
    plan = replace(run.planner, world=1).plan([tree])
    # Without DDP around it, since ranks have different numbers of conversations.
    module = run.accelerator.unwrap_model(run.module)
    finite = True
    try:
        for pack in (small for whole in plan.ranks[0] for small in divided(whole, run.limit)):
            if run.sharded:
                module.set_requires_gradient_sync(True)
            loss, _ = module(collate(pack, run.multiple, run.arrange).to(run.accelerator.device))
            (loss / max(plan.num_items, 1)).backward()
            fine = _gradients_are_finite(run)  # asked in any case: under FSDP2 all ranks must ask
            finite = finite and fine and bool(torch.isfinite(loss))
    except (RuntimeError, MemoryError) as error:
        if run.sharded or not out_of_memory(error):
            raise
    run.zero_grad()
    return finite


def _gradients_are_finite(run: Run) -> bool:
    return bool(torch.isfinite(gradient_norm([p for group in run.optimizer.param_groups for p in group["params"]])))


def ledger_entries(row: dict[str, Any], index_of: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """The entries of ledger.jsonl for `row` of metrics.jsonl: all conversations of a skipped step, the culprits named.

    `index_of` gives the row number and the trained tokens of each source.
    """
    if "skipped" not in row or not row["num_items_in_batch"]:
        return []
    step, guilty = row["step"], row.get(NON_FINITE, [])
    entries = []
    for source in row["sources"]:
        index, tokens = index_of[source]
        if source in guilty:
            detail = f"NaN or infinite loss or gradient in step {step}; look at this row, or lower learning_rate."
        else:
            cause = ", ".join(guilty) or "an overflow under fp16"
            detail = f"Not trained in step {step}, which was skipped for {cause}."
        entries.append(
            {
                "row": index,
                "source": source,
                "refused": False,
                "reason": NON_FINITE if source in guilty else STEP_SKIPPED,
                "message": None,
                "detail": detail,
                "turns_lost": 0,
                "tokens_lost": tokens,
                "step": step,
            }
        )
    return entries
