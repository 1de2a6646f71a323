"""The works that are timed, and their conversations as another trainer takes them: plain renderings, tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentsft.batch.order import step_indices
from agentsft.config import DataConfig, TrainConfig
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer
from agentsft.render.template import message_dicts


@dataclass(frozen=True)
class Work:
    """Rows of `file`, `batch` conversations a step, a model of `shape`, wholly trained or with an adapter."""

    file: str
    batch: int
    loss_scale: str = "default"
    shape: str = "qwen3-1.7b"
    tuner: str = "full"


WORKS = {
    "T": Work("tau_airline_openai.jsonl", 16),
    "S": Work("toolbench_react.jsonl", 64, "react"),
    "L": Work("tau_airline_openai.jsonl", 16, shape="qwen3-8b", tuner="lora"),
    "tau2": Work("tau2_openai.jsonl", 12),
}

SEED = TrainConfig().seed
LEARNING_RATE = 1e-6
"""Small, so that random weights stay what they are."""


def plain_rows(file: Path, model: Path) -> list[list[int]]:
    """Token ids of the rows of `file` that agentsft trains, in its order: each the template's rendering of the whole.

    Rows that agentsft refuses are left out, so that the order of a step means the same conversations to everybody.
    """
    config = DataConfig(model=str(model), data=[str(file)])
    tokenizer = load_tokenizer(config)
    preparer = load_preparer(config, tokenizer)
    texts = []
    for example in preparer.prepare(load_rows(config)):
        conversation = example.conversation
        if example.tree is not None and conversation is not None:
            messages = message_dicts(conversation, preparer.traits.arguments)
            kwargs = conversation.template_kwargs
            texts.append(preparer.template.render(messages, conversation.tools, False, kwargs))
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def steps_of(rows: int, batch: int, steps: int) -> list[np.ndarray]:
    """The conversations (indices) of the first `steps` optimizer steps, as agentsft takes them."""
    return [step_indices(SEED, step, rows, batch) for step in range(steps)]


def keep_shortest(source: Path, count: int, target: Path) -> Path:
    """Writes the `count` shortest lines of a JSONL file, in their order, to `target`; 0 keeps the file as it is."""
    if not count:
        return source
    lines = source.read_text(encoding="utf-8").splitlines()
    kept = sorted(sorted(range(len(lines)), key=lambda i: len(lines[i]))[:count])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines[i] + "\n" for i in kept), encoding="utf-8")
    return target
