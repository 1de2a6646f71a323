"""Run folders with made-up figures, as training leaves them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from agentsft.config import TrainConfig, build
from agentsft.recipe import dump_recipe


def step_row(step: int, steps: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A row of metrics.jsonl."""
    noise = random.Random(seed * 100_003 + step)
    loss = 0.8 + 1.6 * math.exp(-3 * step / steps) + noise.gauss(0, 0.12)
    return {
        "step": step, "epoch": round(step / steps, 6), "loss": loss,
        "learning_rate": 1e-4 * (1 - step / steps), "grad_norm": math.exp(noise.gauss(0.3, 0.5)),
        "num_items_in_batch": 400, "tokens": 1000, "trained_tokens": 400,
        "tokens_per_second": 20_000 + noise.gauss(0, 900), "seconds": 0.05, "mfu": 0.4 + noise.gauss(0, 0.01),
        "loss_by_label": {"thought": loss * 1.3, "action": loss / 3, "action_input": loss / 2, "suffix": loss / 9},
        "micro_batches": 2, "computed_tokens": 900, "memory_gib": 31.5, **more,
    }  # fmt: skip


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_folder(folder: Path, steps: int = 20, seed: int = 0, evaluate: bool = True, **settings: Any) -> Path:
    """A finished run of so many steps."""
    folder.mkdir(parents=True)
    config = build(TrainConfig, {"model": "some/model", "data": ["rows.jsonl"], "output": str(folder), **settings})
    (folder / "recipe.yaml").write_text(dump_recipe(config), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    rows = [step_row(step, steps, seed) for step in range(1, steps + 1)]
    write_lines(folder / "metrics.jsonl", rows)
    if evaluate:
        at = sorted({0, steps // 2, steps})
        write_lines(
            folder / "evaluations.jsonl",
            [
                {"step": k, "epoch": k / steps, "eval_loss": 2.2 - k / steps + seed / 50,
                 "eval_loss_by_label": {"thought": 2.5 - k / steps, "action": 1.2 - k / steps}, "eval_items": 99,
                 "seconds": 1.0}
                for k in at
            ],
        )  # fmt: skip
    write_lines(folder / "ledger.jsonl", [])
    return folder
