"""Two ways of computing a model are told apart by each layer, not by what rounding adds up to over many of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from agentsft.train.attention import NAME, Attention
from agentsft.train.model import decoder_layers
from agentsft.train.probe import attention_fault

LAYERS = 36


@pytest.fixture(scope="module")
def deep() -> Any:
    """A random model so deep that rounding to 16 bits adds up to more than an end-to-end comparison may allow."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "head_dim": 64, "vocab_size": 300}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    config = Qwen3Config(**sizes, **heads, num_hidden_layers=LAYERS, initializer_range=0.12)
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    model.set_attn_implementation(NAME)
    return model


def fault(model: Any, monkeypatch: pytest.MonkeyPatch, by_layer: bool = True) -> str:
    if not by_layer:
        monkeypatch.setattr("agentsft.train.probe.layers_agree", lambda ours, theirs: False)
    return attention_fault(model, Attention("mask", model.device), "sdpa")


def test_rounding_that_adds_up_over_many_layers_is_no_fault(deep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault(deep, monkeypatch) == ""
    assert "differ by" in fault(deep, monkeypatch, by_layer=False)


@pytest.mark.parametrize("layer", [0, LAYERS // 2, LAYERS - 1])
def test_a_single_layer_that_sees_too_much_is_found(deep: Any, layer: int) -> None:
    def without_mask(module: Any, args: Any, named: dict[str, Any]) -> Any:
        # The probe's own paths have no mask; only the forest's pass is spoiled.
        return args, named | {"attention_mask": None}

    layers = decoder_layers(deep)
    assert layers is not None
    hook = layers[layer].register_forward_pre_hook(without_mask, with_kwargs=True)
    try:
        assert "differ by" in attention_fault(deep, Attention("mask", deep.device), "sdpa")
    finally:
        hook.remove()


def test_float32_needs_no_comparison_by_layer(deep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsft.train.probe.layers_agree", lambda ours, theirs: pytest.fail("compared by layer"))
    exact = AutoModelForCausalLM.from_config(deep.config, dtype=torch.float32)
    exact.set_attn_implementation(NAME)
    assert fault(exact, monkeypatch) == ""
    attention = Attention("mask", deep.device)
    monkeypatch.setattr(attention, "arguments", lambda batch: {"attention_mask": None})
    assert "differ by" in attention_fault(exact, attention, "sdpa")
