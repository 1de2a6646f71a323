from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.train import kernel
from agentsft.train.attention import Attention, dense_mask, visible
from agentsft.train.flash import backward_queries, flash_tree_attention, obstacle, tree_lists, tree_places
from tests.batch.trees import random_tree

CONFIG = LlamaConfig(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=64)


def batch_on(device: torch.device) -> MicroBatch:
    random = np.random.default_rng(5)
    return collate(Pack((random_tree(random, 700), random_tree(random, 200))), FLEX_BLOCK, arrange=True).to(device)


def choice(
    monkeypatch: pytest.MonkeyPatch, flash: tuple[float, ...], triton: tuple[float, ...], *differences: float
) -> tuple[bool, str]:
    """Whether FlashAttention-4 is chosen when the kernels' times and differences are these, and the note."""
    answers = iter(zip(flash, triton, differences, strict=True))

    def run(*_: Any) -> tuple[float, float, float]:
        return next(answers)

    monkeypatch.setattr(kernel, "obstacle", lambda *_: "")
    monkeypatch.setattr(kernel, "backward_queries", lambda *_: FLEX_BLOCK)
    monkeypatch.setattr(kernel, "_run", run)
    attention = Attention("sdpa", torch.device("cpu"))
    monkeypatch.setattr(attention, "arguments", lambda _: {"attention_mask": None})
    batches = [batch_on(torch.device("cpu")) for _ in flash]
    note = kernel.choose_kernel(attention, CONFIG, torch.bfloat16, batches)
    return attention.flash, note


def test_the_kernel_that_is_faster_over_all_packs_is_chosen_and_both_times_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faster, note = choice(monkeypatch, (3.0, 1.0), (2.0, 4.0), 0.0, 0.0)
    assert faster
    assert "by FlashAttention-4 (2.0 ms" in note
    assert "3.0 ms" in note
    slower, note = choice(monkeypatch, (2.0, 4.0), (3.0, 1.0), 0.0, 0.0)
    assert not slower
    assert "by Triton (3.0 ms" in note


@pytest.mark.parametrize("wrong", [0.06, float("nan")])
def test_a_kernel_that_differs_from_flex_attention_is_never_used(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    used, note = choice(monkeypatch, (0.1, 0.1), (2.5, 2.5), 0.0, wrong)
    assert not used
    assert "differs" in note


def test_without_the_kernels_the_reason_is_said() -> None:
    assert "GPUs" in obstacle(torch.device("cpu"), 128, torch.bfloat16)


def test_what_the_kernels_know_of_places_is_the_mask_of_trees() -> None:
    batch = batch_on(torch.device("cpu"))
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    places = tree_places(batch)
    behind = (batch.dfs[:, None] - places[None, :]) % 2**32  # of 32 bits, without a sign, as in the kernels
    seen = visible(batch.dfs[:, None], batch.dfs[None, :], batch.subtree_end[None, :])
    assert torch.equal(behind < places >> 32, seen)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("size", [64, 128])
def test_flash_attention_computes_the_mask_of_trees_as_float32_does(size: int) -> None:
    device = torch.device("cuda")
    if reason := obstacle(device, size, torch.bfloat16):
        pytest.skip(reason)
    batch = batch_on(device)
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    n, queries = batch.input_ids.shape[1], backward_queries(device, size)
    q, k, v = (torch.randn(1, heads, n, size, device=device, requires_grad=True) for heads in (4, 2, 2))
    d_out = torch.randn(1, n, 4, size, device=device)
    order = torch.argsort(batch.dfs)
    end = batch.subtree_end[order]
    mask = dense_mask(end)[0, 0][batch.dfs[:, None].long(), batch.dfs[None, :].long()]
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (q, k, v)]
        if dtype == torch.bfloat16:
            out = flash_tree_attention(*inputs, tree_lists(batch, queries), size**-0.5)
        else:
            keys, values = (tensor.repeat_interleave(2, 1) for tensor in inputs[1:])
            scores = (inputs[0] @ keys.transpose(2, 3) * size**-0.5).masked_fill(~mask, -torch.inf)
            out = (scores.softmax(-1) @ values).transpose(1, 2)
        results.append([out, *torch.autograd.grad(out, inputs, d_out.to(dtype))])
    for exact, ours in zip(*results, strict=True):
        assert float((ours.double() - exact).norm() / exact.norm()) < 1e-2
