"""`agentsft plan`: what a run will take, before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from agentsft.cli.options import with_settings
from agentsft.config import TrainConfig, build
from agentsft.errors import UserError
from agentsft.recipe import load_recipe

_FORMATS = ("text", "json")


@with_settings(TrainConfig)
def plan(
    recipe: Annotated[Path | None, typer.Argument(help="YAML file; flags override it.", show_default=False)] = None,
    *,
    settings: dict[str, Any],
    gpu: Annotated[str, typer.Option("--gpu", help="H100, H200, B200, A100, A100-40, L40S or MI300X.")] = "H100",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many of them.")] = 1,
    sharded: Annotated[bool, typer.Option("--sharded", help="They share weights and optimizer (FSDP2).")] = False,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Price of one GPU for an hour.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to look at, unless all are prepared.")] = 1000,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Say what a run will take: steps, packs, time, cost and memory; exit 1 if it does not fit."""
    values = load_recipe(recipe) if recipe else {}
    config = build(TrainConfig, values, str(recipe)) if recipe else TrainConfig()
    config = build(TrainConfig, {**vars(config), **settings}, "command line")
    raise typer.Exit(run_plan(config, gpu, gpus, sharded, price, sample, output_format))


def run_plan(
    config: TrainConfig, gpu: str, gpus: int, sharded: bool, price: float | None, sample: int, output_format: str
) -> int:
    """Print the plan of `config`. Returns 0 where it fits the GPU, else 1."""
    from agentsft.plan.gpus import gpu_named

    chosen = gpu_named(gpu)
    if output_format not in _FORMATS:
        raise UserError(f"--format is one of {', '.join(_FORMATS)}; not {output_format!r}.")
    if not config.model:
        raise UserError("no model: say --model FOLDER or hub name, or `model:` in the recipe.")
    from agentsft.plan.plan import make_plan
    from agentsft.plan.rows import planned_rows

    rows = planned_rows(config, sample)
    held_out = 0 if config.eval_data else round(config.eval_share * rows.conversations)
    conversations = max(rows.conversations - held_out, 1)
    plan = make_plan(config, rows.trees, conversations, chosen, gpus, sharded)
    if output_format == "json":
        print(json.dumps(_as_json(plan, rows, price), indent=1))
    else:
        _print(plan, rows, price, config)
    return 0 if plan.fits else 1


def _as_json(plan: Any, rows: Any, price: float | None) -> dict[str, Any]:
    """GiB, seconds and the currency of the price."""
    hours = [seconds / 3600 for seconds in plan.seconds]
    return {
        "rows": {"all": rows.rows, "looked_at": rows.looked_at, "refused": rows.refused},
        "work": asdict(plan.work),
        "gpu": plan.gpu.name,
        "gpus": plan.gpus,
        "sharded": plan.sharded,
        "utilisation": plan.gpu.utilisation,
        "seconds": plan.seconds,
        "exchange_seconds": plan.exchange,
        "cost": None if price is None else [price * plan.gpus * h for h in hours],
        "memory_gib": {part.name: _gib(getattr(plan.memory, part.name)) for part in fields(plan.memory)}
        | {"total": _gib(plan.memory.total), "gpu": plan.gpu.memory},
        "host_memory_gib": _gib(plan.host),
        "fits": plan.fits,
        "changes": [{"change": change, "memory_gib": round(gib, 2)} for change, gib in plan.changes],
        "faster": None
        if plan.faster is None
        else {"change": plan.faster[0], "time": round(plan.faster[1], 4), "memory_gib": round(plan.faster[2], 2)},
    }


def _print(plan: Any, rows: Any, price: float | None, config: TrainConfig) -> None:
    from rich.text import Text

    from agentsft.cli.display import console, printable, table

    screen, work, gpu = console(), plan.work, plan.gpu
    of = f"{plan.gpus} x {gpu.name}" if plan.gpus > 1 else gpu.name
    looked = f"all {rows.rows:,} rows" if rows.looked_at == rows.rows else f"{rows.looked_at:,} of {rows.rows:,} rows"
    refused = f", {rows.refused:,} of them refused" if rows.refused else ""
    lowest, usual, highest = plan.seconds
    each = usual / max(work.steps, 1)
    parameters = f"{plan.shape.trainable:,} of {plan.shape.parameters:,} trained ({config.tuner})"
    parameters += f", {plan.shape.quantized:,} in 4 bits" if plan.shape.quantized else ""
    lines = [
        ("looked at", looked + refused),
        ("conversations", f"{work.conversations:,}, the longest path {work.longest:,} tokens"),
        ("parameters", parameters),
        ("steps", f"{work.steps:,} of {config.batch_size} conversations"),
        (
            "tokens a step",
            f"{work.tokens:,.0f}, of which {work.trained:,.0f} trained; {work.computed:,.0f} computed "
            f"({work.computed / max(work.tokens, 1):.0%})",
        ),
        (
            "packs a step",
            f"{work.passes:.1f} of {work.pack:,} tokens on each GPU, {work.fill:.0%} full"
            + (f"; GPUs {work.balance:.0%} balanced" if plan.gpus > 1 else ""),
        ),
        ("FLOPs", f"{work.flops / 1e12:,.0f} T a step, {work.flops * work.steps:.2e} in all"),
        ("time", f"{_duration(usual)} ({_duration(highest)} to {_duration(lowest)}), {each:.2f} s a step on {of}"),
    ]
    if plan.gpus > 1:
        lines.append(("exchange", f"{plan.exchange / max(work.steps, 1):.2f} s a step at most, beside the computation"))
    if price is not None:
        best, most = (price * plan.gpus * seconds / 3600 for seconds in (highest, lowest))
        lines.append(("cost", f"{price * plan.gpus * usual / 3600:,.2f} ({best:,.2f} to {most:,.2f})"))
    shown = table("", ["", ""], lines)
    shown.show_header = False
    screen.print(shown)
    parts = [(part.name, f"{_gib(getattr(plan.memory, part.name)):.1f}") for part in fields(plan.memory)]
    screen.print(
        table(f"GiB on each {gpu.name}", ["", ""], [*parts, ("total", f"{_gib(plan.memory.total):.1f}")], (1,))
    )
    if plan.host:
        screen.print(f"and {_gib(plan.host):.1f} GiB of host memory for each GPU, pinned, for offloaded activations")
    verdict = f"fits into {gpu.memory:.0f} GiB" if plan.fits else f"does not fit into {gpu.memory:.0f} GiB"
    screen.print(Text(verdict, "green" if plan.fits else "red"))
    for change, gib in plan.changes:
        screen.print(f"  {printable(change)}: {gib:.1f} GiB")
    if plan.faster:
        change, share, gib = plan.faster
        screen.print(f"  {printable(change)} takes {1 - share:.0%} less time: conversations share more; {gib:.1f} GiB")
    if not plan.fits and not plan.changes:
        screen.print("  no single change helps: take a larger GPU, a smaller model, or several changes together")
    shares = " to ".join(f"{share:.0%}" for share in (gpu.utilisation[0], gpu.utilisation[2]))
    screen.print(Text(f"utilisation {shares} of {gpu.peak / 1e12:,.0f} TFLOP/s ({gpu.source})", "dim"))


def _gib(size: float) -> float:
    return round(size / 2**30, 2)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
