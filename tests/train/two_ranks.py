"""Run by `accelerate launch` in tests: loss and gradient on several ranks, and a short run with a resume."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from agentsft.config import TrainConfig
from agentsft.train import compiled, passes, setup
from agentsft.train.compiled import compile_layers
from agentsft.train.judge import NONE, Judge
from agentsft.train.nonfinite import culprits
from agentsft.train.reporter import Reporter, Silent
from agentsft.train.run import train
from agentsft.train.weight_gradients import give_gradients
from agentsft.types import TokenTree
from tests.batch.trees import sample_step
from tests.train import tiny
from tests.train.oom import Scarce
from tests.train.tiny import examples, loss_and_gradient, step_run, tiny_model, tiny_tokenizer

SHORT = {
    "first rank, forward": ("forward", (0,)),
    "second rank, backward": ("backward", (1,)),
    "both, between layers": ("between layers", (0, 1)),
}
"""Where and on which ranks memory runs out."""


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
    results |= short_of_memory(trees) | {"bad rows": bad_rows(trees)}
    runs = [("whole", 4), ("cut", 2), ("cut", 4), ("cut", 4)]  # the last finds nothing left to do
    short_runs(folder, trees, [(output, {"max_steps": steps}) for output, steps in runs])
    lora = {"tuner": "lora", "lora_dropout": 0.3}
    short_runs(folder, trees, [(f"{output} lora", {"max_steps": steps, **lora}) for output, steps in runs])
    short_runs(folder, trees, [("one then two", {"max_steps": 4}), ("two then one", {"max_steps": 2})])
    torch._dynamo.reset()
    results |= added_up(trees)
    if run.accelerator.is_main_process:
        save_file(results, folder / "results.safetensors")
    run.accelerator.wait_for_everyone()


def added_up(trees: list[TokenTree]) -> dict[str, torch.Tensor]:
    """Gradients of steps with compiled layers in bfloat16: added up by autograd, then, in three steps, by products."""
    compiled.give_gradients = partial(give_gradients, device="cpu")
    model = tiny_model("llama")
    with patch.object(tiny, "find_tail", lambda _: None):  # so that one graph does for all layers, and for all packs
        run = step_run(model, trees, fill=1)  # of one tree each
    assert len(run.plan(0).ranks[0]) > 1
    compile_layers(model)
    with torch.autocast("cpu", torch.bfloat16):
        with patch.object(passes, "adding_up", lambda _: nullcontext()):
            _, expected = loss_and_gradient(run)
        steps = [loss_and_gradient(run)[1] for _ in range(3)]
    return {"added up by autograd": expected} | {f"added up, step {i}": step for i, step in enumerate(steps)}


def short_of_memory(trees: list[TokenTree]) -> dict[str, torch.Tensor]:
    """Loss and gradient where memory runs out on some ranks, and what each rank saw of it."""
    results = {}
    for name, (where, ranks) in SHORT.items():
        model = tiny_model("llama")
        run = step_run(model, trees)
        with Scarce(model, 60 if run.accelerator.process_index in ranks else 10**6, where) as scarce:
            loss, gradient = loss_and_gradient(run)
            again, _ = loss_and_gradient(run)
        seen = run.accelerator.gather(torch.tensor([scarce.failures, run.halved])).reshape(2, 2)
        results |= {f"{name}/loss": torch.tensor(loss), f"{name}/gradient": gradient, f"{name}/seen": seen}
        results[f"{name}/again"] = torch.tensor(again)
    return results


def bad_rows(trees: list[TokenTree]) -> torch.Tensor:
    """The numbers of the trees that a broken model cannot compute, found by two ranks."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(1.0)
    run = step_run(model, trees)
    run.sources = [str(number) for number in range(len(trees))]
    broken = [trees[2].input_ids.tobytes(), trees[5].input_ids.tobytes()]

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if inputs[0].numpy().astype("int32").tobytes() in broken else output

    model.model.embed_tokens.register_forward_hook(spoil)
    return torch.tensor(sorted(map(int, culprits(run, 0))))


def short_runs(
    folder: Path,
    trees: list[TokenTree],
    runs: list[tuple[str, dict[str, Any]]],
    reporter: Reporter | None = None,
    judge: Judge = NONE,
) -> None:
    """Trains the model in `folder` into each output folder; a second run of the same folder goes on from the first.

    In the run called whole passes are begun while the step before ends.
    """
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
        with patch.object(setup, "overlaps", lambda *_, output=output: output == "whole"):
            train(config, tiny_tokenizer(), examples(trees), examples(trees[:3]), reporter or Silent(), judge)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
