"""From the steps that a case wrote to its figures, and from the results of all cases to tables."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.workload import steps_of

COLUMNS = (
    ("conv/s", "conversations_per_second", "{:.2f}"),
    ("plain tokens/s", "plain_tokens_per_second", "{:,.0f}"),
    ("s/step", "seconds", "{:.2f}"),
    ("peak GiB", "peak_gib", "{:.1f}"),
    ("own tokens/s", "tokens_per_second", "{:,.0f}"),
    ("mfu", "mfu", "{:.1%}"),
    ("first step s", "first_step_seconds", "{:.0f}"),
    ("recompiled", "recompilations", "{}"),
    ("host", "host_share", "{:.1%}"),
    ("data", "preparing_share", "{:.1%}"),
    ("steps", "timed_steps", "{}"),
)
"""Heading, key of the results, and form. `host`: share of a step in which the GPU does nothing; `data`: the
training thread's time for planning and collating, and for waiting for them, as a share of the step, whether the GPU
waits for it or not."""


KEPT = ("tokens", "computed_tokens", "mfu", "preparing", "micro_batches", "taken", "mapped", "retried")
"""What is kept of each step, beside its time."""


def measure(
    rows: list[dict[str, Any]], started: float, plain: list[int], batch: int, warmup: int, steps: int
) -> dict[str, Any]:
    """Figures of a case from its file of steps. Medians over the full steps of number `warmup` to `steps` - 1.

    A step's seconds are the wall clock's, from the end of the step before to its own. `plain` are the tokens of each
    row's plain rendering, for the steps that do not count theirs. What is not known is left out.
    """
    found: dict[str, Any] = {}
    for row in rows:
        if row["kind"] == "attention":
            found["attention"] = row["kernel"]
        elif row["kind"] == "note":
            found.setdefault("notes", []).append(row["text"])
        elif row["kind"] == "profile" and row["busy_seconds"]:
            found["host_share"] = 1 - row["busy_seconds"] / row["span_seconds"]
            found["profile"] = {
                key: row.get(key) for key in ("span_seconds", "busy_seconds", "kinds", "longest", "gaps")
            }
    taken = [row for row in rows if row["kind"] == "step"]
    if not taken:
        return found
    if taken[0].get("rows_of_data", len(plain)) != len(plain):
        count = taken[0]["rows_of_data"]
        found.setdefault("notes", []).append(f"NOT COMPARABLE: it trained {count} rows, the others {len(plain)}")
    found["first_step_seconds"] = taken[0]["ended"] - started
    order = steps_of(len(plain), batch, len(taken))
    timed = []
    for before, row in pairwise(taken[:steps]):
        if row["step"] >= warmup:
            indices = order[row["step"]]
            if len(indices) < batch and "conversations" not in row:
                continue  # what is left at an epoch's end
            timed.append(
                {
                    "seconds": row["ended"] - before["ended"],
                    "plain": row.get("plain_tokens") or sum(plain[i] for i in indices),
                    "conversations": row.get("conversations") or len(indices),
                    **{key: row[key] for key in KEPT if key in row},
                }
            )
    if memory := [row["memory_gib"] for row in taken if row.get("memory_gib") is not None]:
        found["peak_gib"] = max(memory)
    if "reserved_gib" in taken[0]:
        found["reserved_gib"] = max(row["reserved_gib"] for row in taken)
    if "compilations" in taken[0]:
        at_warm = taken[min(max(warmup, 1), len(taken)) - 1]
        found["recompilations"] = taken[-1]["compilations"] - at_warm["compilations"]
    found["timed_steps"] = len(timed)
    if not timed:
        return found
    found["seconds"] = median(row["seconds"] for row in timed)
    found["conversations_per_second"] = median(row["conversations"] / row["seconds"] for row in timed)
    found["plain_tokens_per_second"] = median(row["plain"] / row["seconds"] for row in timed)
    if timed[0].get("tokens"):
        found["tokens_per_second"] = median(row["tokens"] / row["seconds"] for row in timed)
        found["computed_share"] = median(row["computed_tokens"] / row["tokens"] for row in timed)
        found["preparing_share"] = median(row["preparing"] / row["seconds"] for row in timed)
    if timed[0].get("mfu"):
        found["mfu"] = median(row["mfu"] for row in timed)
    found["each_step"] = timed
    return found


def latest(results: Path) -> list[dict[str, Any]]:
    """The last row of each case (kernel, GPUs, conversations a step), in the order in which they first came."""
    rows: dict[Any, dict[str, Any]] = {}
    for text in results.read_text(encoding="utf-8").splitlines() if results.exists() else []:
        try:
            row = json.loads(text)
        except json.JSONDecodeError:  # half a line of a killed process
            continue
        rows[tuple(row.get(key) for key in ("case", "kernel", "gpus", "batch", "weak"))] = row
    return list(rows.values())


def line(row: dict[str, Any]) -> str:
    """One case in one line."""
    shown = [f"{heading} {form.format(row[key])}" for heading, key, form in COLUMNS if row.get(key) is not None]
    state = [] if row["state"] == "ok" else [row["state"]]
    attention = [row["attention"]] if row.get("attention") else []
    return f"{row['case']}: " + ", ".join([*state, *shown, *attention, *row.get("notes", [])])


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: the gate, the figures of all cases, and where the time of the profiled steps goes."""
    parts = [
        f"gate, {row['kernel']}: {'passed' if row['passed'] else 'FAILED'} ({row['shape']}, {row['rows']} rows, "
        f"{row['turns']} turns; loss {row['loss']:.1e}, norm {row['norm']:.1e}, gradients {row['gradient']:.1e})"
        for row in rows
        if row["case"] == "gate"
    ]
    cases = [row for row in rows if row["case"] != "gate"]
    ours = {row["work"]: row.get("plain_tokens_per_second") for row in cases if row["case"].endswith(".agentsft")}
    headings = ["case", "agentsft is faster by", *(heading for heading, *_ in COLUMNS), "attention", "remarks"]
    body = []
    for row in cases:
        rate, best = row.get("plain_tokens_per_second"), ours.get(row["work"])
        times = f"{best / rate:.2f}" if rate and best else ""
        figures = [form.format(row[key]) if row.get(key) is not None else "" for _, key, form in COLUMNS]
        remarks = [] if row["state"] == "ok" else [row["state"].replace("|", "/")]
        body.append([row["case"], times, *figures, row.get("attention", ""), "; ".join(remarks + row.get("notes", []))])
    parts.append(_table(headings, body))
    profiles = [row for row in cases if row.get("profile", {}).get("span_seconds")]  # older results have none
    if profiles:
        kinds = list(profiles[0]["profile"]["kinds"])
        body = [[kind, *(f"{row['profile']['kinds'].get(kind, 0):.3f}" for row in profiles)] for kind in kinds]
        body.append(["GPU idle", *(f"{_idle(row['profile']):.3f}" for row in profiles)])
        body.append(["all", *(f"{row['profile']['span_seconds']:.3f}" for row in profiles)])
        parts.append(_table(["seconds of one step", *(row["case"] for row in profiles)], body))
    return "\n\n".join(parts)


def _idle(profile: dict[str, Any]) -> float:
    return profile["span_seconds"] - profile["busy_seconds"]


def _table(headings: list[str], body: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
