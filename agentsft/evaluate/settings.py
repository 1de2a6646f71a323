"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from agentsft.config import DataConfig, option
from agentsft.errors import UserError


@dataclass
class EvalConfig(DataConfig):
    """`DataConfig` says which turns are judged, in which contexts; the rest says how. `model` may be an adapter."""

    output: str = option("", "Folder for results.jsonl and eval.json; default: outputs/eval/NAME.", "Run")
    limit: int | None = option(None, "Only the first so many conversations.", "Run")
    resume: bool = option(False, "Go on from the results in output, or start afresh.", "Run")
    seed: int = option(42, "Seed of the bootstrap.", "Run")
    generate: bool = option(True, "Let the model answer every turn; otherwise the loss alone.", "Generation")
    max_new_tokens: int = option(512, "Longest answer; one without a stop token by then did not stop.", "Generation")
    batch_tokens: int = option(32768, "Tokens of one batch, prompts and answers: the memory knob.", "Generation")
    precision: str = option(
        "auto", "auto: bf16 on GPUs that have it, else fp32.", "Generation", ("auto", "fp32", "bf16", "fp16")
    )


def check(config: EvalConfig) -> None:
    """Raises UserError for a number that cannot be."""
    for name in ("limit", "max_new_tokens", "batch_tokens"):
        value = getattr(config, name)
        if value is not None and not 1 <= value < 2**31:
            raise UserError(f"--{name.replace('_', '-')} is a whole number from 1 on, not {value}.")
    if not 0 <= config.seed < 2**63:
        raise UserError(f"--seed is a whole number from 0 on, not {config.seed}.")


_WITHOUT_EFFECT = ("output", "resume", "seed", "num_proc")


def shaping(config: EvalConfig) -> dict[str, Any]:
    """The settings on which results depend, as JSON values: those that a resumed evaluation shares with its start."""
    return {name: value for name, value in asdict(config).items() if name not in _WITHOUT_EFFECT}
