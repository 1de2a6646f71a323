"""Figures and tables of runs: what a run came to, what it lost, and where runs differ."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

from agentsft.config import TrainConfig
from agentsft.report.read import RunFolder

WITHOUT_EFFECT = ("output", "resume", "resume_from_checkpoint", "report_to", "project", "run_name")
"""Settings that name a run and say nothing about it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run, as a person reads it. `better` is -1 where less is better, 1 where more is, else 0."""

    name: str
    text: str
    value: float | None = None
    better: int = 0
    detail: str = ""


def number(value: Any) -> float | None:
    """A finite number, or None: rows hold null where there is none."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def values(rows: list[dict[str, Any]], key: str) -> list[float]:
    """The finite numbers under `key`, in order."""
    return [found for row in rows if (found := number(row.get(key))) is not None]


def figures(run: RunFolder) -> list[Figure]:
    """What the run came to, in the order in which a person asks. Figures that are not known are left out."""
    steps, losses = run.steps, values(run.steps, "loss")
    held_out = [(row["step"], found) for row in run.evaluations if (found := number(row.get("eval_loss"))) is not None]
    made: list[Figure] = []
    if held_out:
        first, last = held_out[0][1], held_out[-1][1]
        made.append(Figure("held-out loss", f"{last:.4f}", last, -1))
        best = min(held_out, key=lambda pair: pair[1])
        if len(held_out) > 1:
            made.append(Figure("held-out loss before", f"{first:.4f}"))
        if best[1] < last:
            made.append(Figure("best held-out loss", f"{best[1]:.4f}", best[1], -1, f"at step {best[0]:,}"))
    if losses:
        tail = losses[-max(1, len(losses) // 20) :]
        made.append(
            Figure("training loss, last twentieth", f"{statistics.fmean(tail):.4f}", statistics.fmean(tail), -1)
        )
    if steps:
        epoch = number(steps[-1].get("epoch"))
        made.append(Figure("steps", f"{steps[-1]['step']:,}", detail=f"{epoch:.2f} epochs" if epoch else ""))
    if seconds := sum(values(steps, "seconds")):
        made.append(Figure("time in steps", duration(seconds)))
    if tokens := sum(values(steps, "tokens")):
        trained = sum(values(steps, "trained_tokens"))
        made.append(Figure("tokens", f"{tokens:,.0f}", detail=f"{trained / tokens:.0%} trained"))
    if speed := values(steps, "tokens_per_second"):
        made.append(Figure("tokens/s, median", f"{statistics.median(speed):,.0f}", statistics.median(speed), 1))
    if mfu := values(steps, "mfu"):
        made.append(Figure("MFU, median", f"{statistics.median(mfu):.1%}", statistics.median(mfu), 1))
    if memory := values(steps, "memory_gib"):
        made.append(Figure("peak memory", f"{max(memory):.2f} GiB", max(memory), -1))
    skipped = sum("skipped" in row for row in steps)
    made.append(Figure("steps skipped", str(skipped), float(skipped), -1))
    if run.ledger:
        made.append(Figure("rows not trained in full", f"{len({entry.get('source') for entry in run.ledger}):,}"))
    return made


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def ledger_table(run: RunFolder) -> list[tuple[str, int, int, int, int, str]]:
    """(reason, entries, rows refused, turns lost, tokens lost, an example), the most frequent reason first."""
    counts: Counter[str] = Counter(str(entry.get("reason")) for entry in run.ledger)
    table = []
    for reason, count in counts.most_common():
        entries = [entry for entry in run.ledger if str(entry.get("reason")) == reason]
        refused = sum(entry.get("refused") is True for entry in entries)
        turns, tokens = (int(sum(values(entries, key))) for key in ("turns_lost", "tokens_lost"))
        first = entries[0]
        table.append((reason, count, refused, turns, tokens, f"{first.get('source')}: {first.get('detail')}"))
    return table


def duplicates_table(run: RunFolder) -> list[tuple[str, int, str]]:
    """(kind, rows, an example), the most frequent kind first."""
    counts: Counter[str] = Counter(str(entry.get("kind")) for entry in run.duplicates)
    first = {str(entry.get("kind")): entry for entry in reversed(run.duplicates)}
    return [
        (kind, count, f"{first[kind].get('source')}: {first[kind].get('detail')} {first[kind].get('first')}")
        for kind, count in counts.most_common()
    ]


def skipped_table(run: RunFolder) -> list[tuple[int, str, str]]:
    """(step, why, the rows at fault or those in the step) of every step that was skipped."""
    table = []
    for row in run.steps:
        if "skipped" in row:
            sources = row.get("non_finite") or row.get("sources") or []
            named = ", ".join(map(str, sources[:4])) + (f" and {len(sources) - 4} more" if len(sources) > 4 else "")
            table.append((row["step"], str(row["skipped"]), named))
    return table


def settings_that_differ(runs: list[RunFolder]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) of all settings that are not the same in all runs; `-` where it is not known."""
    names = dict.fromkeys(name for run in runs for name in run.recipe if name not in WITHOUT_EFFECT)
    rows = [(name, [shown(run.recipe[name]) if name in run.recipe else "-" for run in runs]) for name in names]
    return [(name, cells) for name, cells in rows if len(set(cells)) > 1]


def recipe_table(run: RunFolder) -> list[tuple[str, str, bool]]:
    """(setting, value, whether it is other than the default), in the order of `--help`."""
    defaults = vars(TrainConfig())
    return [(name, shown(value), value != defaults.get(name)) for name, value in run.recipe.items()]


def shown(value: Any) -> str:
    """A setting's value as a recipe has it."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def machine_table(run: RunFolder) -> list[tuple[str, str]]:
    """(what, value) of the machine and the versions that the run noted; empty where it noted none."""
    rows = [(key.replace("_", " "), shown(run.info[key])) for key in _MACHINE if run.info.get(key) is not None]
    versions = run.info.get("versions")
    return rows + ([(str(k), str(v)) for k, v in versions.items()] if isinstance(versions, dict) else [])


_MACHINE = (
    "device", "world_size", "precision", "attention", "layout", "compiled", "conversations", "eval_conversations",
    "tokens", "trained_tokens", "parameters", "trainable_parameters", "started",
)  # fmt: skip
