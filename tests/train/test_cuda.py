"""What only a GPU can show: flex attention, bfloat16, compiled layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentsft.train.layout import choose_layout
from agentsft.train.run import train
from agentsft.types import TokenTree
from tests.batch.trees import random_tree
from tests.train.reference import reference
from tests.train.test_run import Recorder, config
from tests.train.tiny import examples, loss_and_gradient, saved_model, step_run, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("cuda")


FLOAT32 = {"precision": "fp32", "torch_compile": False, "attn_implementation": "sdpa"}


def trees(n: int = 12) -> list[TokenTree]:
    random = np.random.default_rng(5)
    return [random_tree(random, int(size)) for size in random.integers(50, 300, n)]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2-wide"])
def test_flex_attention_gives_the_loss_and_gradient_of_plain_transformers(name: str) -> None:
    expected = reference(tiny_model(name), trees(4))
    model = tiny_model(name).cuda()
    assert choose_layout(model, 300, False, None, False).attention.mode == "flex"
    run = step_run(model, trees(4), fill=500)
    run.multiple = 128
    loss, gradient = loss_and_gradient(run)
    assert loss == pytest.approx(expected[0], rel=1e-4)
    assert (gradient.cpu() - expected[1]).norm() <= 1e-3 * expected[1].norm()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"tuner": "lora"},
        {"precision": "fp16"},
        {"attn_implementation": "sdpa"},
        {"torch_compile": False},
    ],
    ids=str,
)
def test_reduced_precision_trains_without_recompiling_and_ends_near_float32(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    model = saved_model("qwen3", tmp_path / "model")
    losses = {}
    for name, more in {"reduced": settings, "fp32": FLOAT32}.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        keep = {key: value for key, value in settings.items() if key == "tuner"}
        recorder = Counting()
        train_config = config(
            model,
            tmp_path / name,
            max_steps=12,
            batch_size=3,
            micro_batch_tokens=512,
            learning_rate=1e-3,
            **(keep | more),
        )
        result = train(train_config, tiny_tokenizer(), examples(trees()), examples(trees(2)), recorder)
        losses[name] = result.eval_loss
        assert result.eval_loss is not None
        assert result.initial_eval_loss is not None
        assert result.eval_loss < result.initial_eval_loss
        assert recorder.frames[5] == recorder.frames[-1]
    assert losses["reduced"] == pytest.approx(losses["fp32"], rel=5e-3)


class Counting(Recorder):
    """Counts the graphs that are compiled until each step."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[int] = []

    def on_step(self, row: dict[str, Any]) -> None:
        self.frames.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
