"""Run by `accelerate launch` in tests: loss and gradient on several ranks, and a short run with a resume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from agentsft.config import TrainConfig
from agentsft.train.reporter import Silent
from agentsft.train.run import train
from agentsft.types import TokenTree
from tests.batch.trees import sample_step
from tests.train.tiny import examples, loss_and_gradient, saved_model, step_run, tiny_model, tiny_tokenizer


def main(folder: Path) -> None:
    trees = sample_step()
    results = {}
    for name, settings in {
        "tree": {},
        "split": {"layout": "split"},
        "small packs": {"fill": 40, "budget": 60},
        "fewer trees than ranks": {},
    }.items():
        run = step_run(tiny_model("llama"), trees[:1] if name == "fewer trees than ranks" else trees, **settings)
        assert run.accelerator.num_processes == 2
        loss, gradient = loss_and_gradient(run)
        results |= {f"{name}/loss": torch.tensor(loss), f"{name}/gradient": gradient}
    if run.accelerator.is_main_process:
        save_file(results, folder / "results.safetensors")
        saved_model("llama", folder / "model")
    run.accelerator.wait_for_everyone()
    runs = [("whole", 4), ("cut", 2), ("cut", 4), ("cut", 4)]  # the last finds nothing left to do
    short_runs(folder, trees, [(output, {"max_steps": steps}) for output, steps in runs])


def short_runs(folder: Path, trees: list[TokenTree], runs: list[tuple[str, dict[str, Any]]]) -> None:
    """Trains the model in `folder` into each output folder; a second run of the same folder goes on from the first."""
    for output, settings in runs:
        config = TrainConfig(
            model=str(folder / "model"),
            output=str(folder / output),
            batch_size=2,
            micro_batch_tokens=64,
            save_steps=2,
            eval_steps=2,
            lr_scheduler_type="constant",
            warmup_steps=0,
            resume=True,
            **settings,
        )
        train(config, tiny_tokenizer(), examples(trees), examples(trees[:3]), Silent())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
