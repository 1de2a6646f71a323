"""The gradient of the vocabulary's matrix: one matrix a step, and the sum that autograd would have made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.train.attention import Attention
from agentsft.train.module import LossModule
from agentsft.train.vocabulary import Vocabulary, find_vocabulary
from tests.batch.trees import random_tree
from tests.train.tiny import tiny_model

MODELS = ("llama", "qwen3", "gemma2-wide")
"""Tied to a plain head, by itself, and tied to a head that caps its logits."""


def batches() -> list[MicroBatch]:
    """Three passes; the last one has nothing in it, as where a rank has fewer packs than others."""
    random = np.random.default_rng(2)
    packs = [Pack(tuple(random_tree(random, 40) for _ in range(count))) for count in (3, 2)]
    return [collate(pack, 1) for pack in (*packs, Pack(()))]


def wrapped(model: Any, vocabulary: Vocabulary | None) -> LossModule:
    return LossModule(model, Attention("mask", torch.device("cpu")), vocabulary=vocabulary)


def train(module: LossModule, call: nn.Module, scale: float | None = 0.25) -> None:
    for batch in batches():
        loss, _ = call(batch, scale)
        (loss * 0.25).backward()
        module.end_pass()


def gradients(module: LossModule) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scale", [0.25, None], ids=["known-scale", "unknown-scale"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_a_steps_passes_are_those_of_autograd(name: str, scale: float | None) -> None:
    plain = wrapped(tiny_model(name), None)
    model = tiny_model(name)
    ours = wrapped(model, find_vocabulary(model))
    train(plain, plain, scale)
    train(ours, ours, scale)
    expected, found = gradients(plain), gradients(ours)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def test_a_tied_matrix_has_one_gradient_and_no_other_of_its_size_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    module = wrapped(model, find_vocabulary(model))
    weight = model.get_input_embeddings().weight
    made: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **kwargs or {})
            fresh = isinstance(result, torch.Tensor) and result._base is None
            if fresh and result.shape == weight.shape and not function._schema.is_mutable:
                places = [arg.data_ptr() for arg in args if isinstance(arg, torch.Tensor)]
                made.extend([str(function)] if result.data_ptr() not in places else [])
            return result

    with Watch():
        train(module, module)
    assert made == ["aten.empty_like.default"]


def test_embeddings_of_padding_get_no_gradient() -> None:
    torch.manual_seed(0)
    plain, ours = (nn.Embedding(10, 4, padding_idx=3) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    Vocabulary(ours, None)
    ids = torch.tensor([[1, 3, 1, 9]])
    for embeddings in (plain, ours):
        for _ in range(2):
            embeddings(ids).square().sum().backward()
    assert ours.weight.grad is not None
    assert torch.equal(ours.weight.grad, plain.weight.grad)
    assert not ours.weight.grad[3].any()


def test_a_pass_that_failed_gives_the_gradient_back() -> None:
    model = tiny_model("llama")
    module = wrapped(model, find_vocabulary(model))
    train(module, module)
    weight = model.get_input_embeddings().weight
    assert weight.grad is not None
    place = weight.grad.data_ptr()
    module(batches()[0], 0.25)  # memory runs out before the backward pass, for instance
    assert weight.grad is None
    module.end_pass()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == place


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_under_ddp_the_gradient_stays_in_its_bucket(name: str) -> None:
    plain = wrapped(tiny_model(name), None)
    train(plain, plain)
    expected = gradients(plain)
    model = tiny_model(name)
    module = wrapped(model, find_vocabulary(model))
    weights = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        ddp = DistributedDataParallel(module, gradient_as_bucket_view=True)
        places = []
        for _ in range(4):
            for p in module.parameters():
                if p.grad is not None:
                    p.grad.zero_()
            first, second, last = batches()
            with ddp.no_sync():
                for batch in (first, second):
                    (ddp(batch, 0.25)[0] * 0.25).backward()
                    module.end_pass()
                    places.append({weight.grad.data_ptr() for weight in weights if weight.grad is not None})
            (ddp(last, 0.25)[0] * 0.25).backward()
            module.end_pass()
            places.append({weight.grad.data_ptr() for weight in weights if weight.grad is not None})
            for parameter, gradient in gradients(module).items():
                torch.testing.assert_close(gradient, expected[parameter], rtol=1e-5, atol=1e-6)
        assert all(place == places[-1] for place in places[6:])  # since DDP made its last buckets
    finally:
        distributed.destroy_process_group()


def test_embeddings_that_are_frozen_or_scaled_are_left_to_autograd() -> None:
    assert find_vocabulary(tiny_model("llama").requires_grad_(False)) is None
    assert find_vocabulary(tiny_model("gemma3")) is None  # its embeddings are multiplied by the root of their width
