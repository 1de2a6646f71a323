"""Losses are those of training, and each conversation's is its own."""

from __future__ import annotations

import numpy as np
import pytest

from agentsft.evaluate.loss import held_out_losses
from agentsft.train.loop import evaluate
from agentsft.types import LABELS, TokenTree
from tests.batch.trees import random_tree
from tests.train.tiny import step_run, tiny_model


def trees() -> list[TokenTree]:
    random = np.random.default_rng(5)
    return [random_tree(random, int(size)) for size in random.integers(4, 90, 9)]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "cohere"])
@pytest.mark.parametrize("fill", [24, 4096])
def test_losses_are_those_of_evaluation_in_training(name: str, fill: int) -> None:
    held_out = trees()
    model = tiny_model(name)
    own = model.config._attn_implementation
    losses = held_out_losses(model, held_out, fill)
    assert model.config._attn_implementation == own
    trained = evaluate(step_run(tiny_model(name), held_out), held_out)
    assert trained is not None
    assert losses.weighted.sum() / losses.items.sum() == pytest.approx(trained["eval_loss"], rel=1e-5)
    assert losses.items.sum() == trained["eval_items"]
    sums = zip(LABELS, losses.nll.sum(0), losses.counts.sum(0), strict=True)
    by_label = {label: nll / count for label, nll, count in sums if count}
    assert by_label == pytest.approx(trained["eval_loss_by_label"], rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_conversations_loss_does_not_depend_on_the_others(name: str) -> None:
    held_out = trees()
    together = held_out_losses(tiny_model(name), held_out)
    for i, tree in enumerate(held_out):
        alone = held_out_losses(tiny_model(name), [tree])
        assert together.weighted[i] == pytest.approx(alone.weighted[0], rel=1e-5)
        assert together.nll[i] == pytest.approx(alone.nll[0], rel=1e-5)
        assert together.items[i] == alone.items[0]
        assert (together.counts[i] == alone.counts[0]).all()
