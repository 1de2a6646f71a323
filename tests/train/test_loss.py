from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.train.loss import Head, chunked_loss, plain_loss
from agentsft.train.probe import head_fault
from agentsft.types import LABELS, TokenTree
from tests.batch.trees import VOCAB, random_tree
from tests.train.tiny import tiny_model

WIDTH = 16


def head_of(embeddings: nn.Module, **config: float) -> Head:
    text = SimpleNamespace(**config)
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: text), get_output_embeddings=lambda: embeddings
    )
    return Head(model)


def lora_head() -> nn.Module:
    model = get_peft_model(
        nn.Sequential(nn.Linear(WIDTH, VOCAB)), LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
    )
    return model.base_model.model[0]


HEADS: dict[str, Any] = {
    "plain": lambda: head_of(nn.Linear(WIDTH, VOCAB, bias=False)),
    "bias": lambda: head_of(nn.Linear(WIDTH, VOCAB)),
    "capped": lambda: head_of(nn.Linear(WIDTH, VOCAB), final_logit_softcapping=2.0),
    "scaled": lambda: head_of(nn.Linear(WIDTH, VOCAB), logit_scale=3.0, logits_scaling=0.5),
    "lora": lambda: head_of(lora_head()),
    "frozen": lambda: head_of(nn.Linear(WIDTH, VOCAB).requires_grad_(False)),
}


def batch_of(n: int = 60) -> MicroBatch:
    """A random tree, some of whose targets are there twice, as where two responses begin alike."""
    tree = random_tree(np.random.default_rng(3), n)
    twice = np.concatenate([np.arange(len(tree.source)), np.flatnonzero(tree.weight > 0)[::3]])
    doubled = {name: getattr(tree, name)[twice] for name in ("source", "token", "label")}
    return collate(Pack((replace(tree, weight=tree.weight[twice] * np.linspace(0.5, 2, len(twice)), **doubled),)))


@pytest.mark.parametrize("scale", [None, 3.0], ids=["unknown-scale", "known-scale"])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("name", HEADS)
def test_the_chunked_loss_equals_the_plain_one_in_value_and_gradient(
    name: str, chunk: int, scale: float | None
) -> None:
    torch.manual_seed(0)
    head, batch = HEADS[name](), batch_of()
    hidden = torch.randn(len(batch.rows), WIDTH, requires_grad=True)
    inputs = [hidden, *(p for p in head.embeddings.parameters() if p.requires_grad)]
    assert len(batch.token) > len(batch.rows)

    loss, by_label = chunked_loss(head, hidden, batch, chunk, scale=scale)
    gradients = torch.autograd.grad(3 * loss, inputs)
    expected, expected_by_label = plain_loss(head(hidden), batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(by_label, expected_by_label)
    for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, inputs), strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    with torch.no_grad():
        torch.testing.assert_close(chunked_loss(head, hidden, batch, chunk), (loss, by_label))


def test_logits_are_built_once_for_each_source_and_never_for_more_rows_than_a_chunk() -> None:
    seen: list[int] = []
    embeddings = nn.Linear(WIDTH, VOCAB)
    embeddings.register_forward_hook(lambda module, inputs, logits: seen.append(len(logits)))
    batch = batch_of()
    hidden = torch.randn(len(batch.rows), WIDTH, requires_grad=True)
    chunked_loss(head_of(embeddings), hidden, batch, 8)[0].backward()
    assert sum(seen) == len(batch.rows)
    assert max(seen) == 8


def test_the_loss_of_weighted_targets_is_the_formula_on_numbers_done_by_hand() -> None:
    # Two sources; logits are ln of the odds, so the probabilities are 1/4 and 3/4, then 1/2, 1/3 and 1/6.
    logits = torch.tensor([[1.0, 3.0, 0.0], [3.0, 2.0, 1.0]]).log()
    source, token = np.array([1, 1, 4], np.int32), np.array([0, 1, 2], np.int32)
    weight, label = np.array([2.0, 0.5, 3.0], np.float32), np.array([0, 3, 3], np.int8)
    ids, ends = np.arange(5, dtype=np.int32), np.full(5, 5, np.int32)
    batch = collate(Pack((TokenTree(ids, ids, ends, source, token, weight, label),)))
    identity = nn.Linear(3, 3, bias=False)
    nn.init.eye_(identity.weight)
    loss, by_label = chunked_loss(head_of(identity), logits.clamp_min(-1e4), batch, 1)
    assert float(loss.detach()) == pytest.approx(2.0 * 1.3862944 + 0.5 * 0.2876821 + 3.0 * 1.7917595, rel=1e-6)
    assert float(by_label[LABELS.index("text")]) == pytest.approx(1.3862944)
    assert float(by_label[LABELS.index("action")]) == pytest.approx(0.2876821 + 1.7917595)


def test_without_targets_loss_and_every_gradient_are_zero() -> None:
    head, batch = HEADS["bias"](), collate(Pack(()))
    hidden = torch.randn(0, WIDTH, requires_grad=True)
    loss, _ = chunked_loss(head, hidden, batch, 8)
    loss.backward()
    assert loss.item() == 0.0
    assert [p.grad.abs().max().item() for p in head.embeddings.parameters() if p.grad is not None] == [0.0, 0.0]


@pytest.mark.parametrize("scale", [None, 64.0], ids=["unknown-scale", "known-scale"])
def test_small_probabilities_keep_their_gradient_in_float16(scale: float | None) -> None:
    batch = batch_of()
    embeddings = nn.Linear(WIDTH, VOCAB, bias=False)
    hidden = torch.randn(len(batch.rows), WIDTH)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        leaf = (hidden * 1e-3).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, _ = chunked_loss(head_of(embeddings), leaf, batch, 8, scale=scale)
        gradients.append(torch.autograd.grad((scale or 1.0) * loss, leaf)[0])
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 2e-3


@pytest.mark.parametrize("name", ["llama", "cohere", "granite", "gemma2", "gemma3"])
def test_the_head_gives_the_logits_of_the_models_own_forward(name: str) -> None:
    assert head_fault(tiny_model(name)) == ""


def test_a_model_with_more_behind_its_decoder_is_found_out() -> None:
    model = tiny_model("granite")
    model.config.logits_scaling, model.logit_scale = 1.0, 0.1
    forward = model.forward
    model.forward = lambda *args, **kwargs: _halved(forward(*args, **kwargs))
    assert "differ" in head_fault(model)


def _halved(output: Any) -> Any:
    output.logits = output.logits / 2
    return output
