"""The plan's arithmetic against models that exist and runs that were measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from agentsft.config import TrainConfig
from agentsft.plan.memory import GIB, host_bytes, memory
from agentsft.plan.shape import Shape, shape_of
from agentsft.train.model import load_model

PEAKS = [(16256, 53.9), (15104, 52.9)]
"""Tokens of a pack and peak GiB of runs on an H100 (docs/performance.md): tau-bench and
ToolBench; Qwen3-1.7B's shape, full fine-tuning, bf16 autocast, no gradient checkpointing."""


def qwen3(tuner: str = "full", **settings: bool) -> Shape:
    config = Qwen3Config(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        return shape_of(TrainConfig(tuner=tuner, **settings), AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(("pack", "peak"), PEAKS)
def test_memory_is_within_15_percent_of_what_a_gpu_took(pack: int, peak: float) -> None:
    assert memory(qwen3(), pack).total / GIB == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize("double", [True, False])
def test_weights_of_4_bits_take_what_the_loaded_model_takes(tmp_path: Path, double: bool) -> None:
    pytest.importorskip("bitsandbytes")
    settings = {"tuner": "lora", "load_in_4bit": True, "bnb_4bit_use_double_quant": double}
    config = Qwen3Config(
        vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, head_dim=64, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    run = TrainConfig(model=str(tmp_path), precision="bf16", **settings)
    with torch.device("meta"):
        shape = shape_of(run, AutoModelForCausalLM.from_config(config))
    loaded = load_model(run, torch.device("cpu"), "bf16")
    quantized = [p for p in loaded.parameters() if getattr(p, "quant_state", None) is not None]
    packed = [*quantized, *(s for p in quantized for s in _scales(p.quant_state))]
    rest = [p for p in loaded.parameters() if getattr(p, "quant_state", None) is None]
    assert shape.quantized == sum(math.prod(p.quant_state.shape) for p in quantized)
    assert shape.quantized_bytes == sum(tensor.nbytes for tensor in packed)
    # On a GPU what is neither trained nor in 4 bits is bfloat16.
    others = sum(p.numel() * (4 if p.requires_grad else 2) for p in rest)
    assert memory(shape, 1024).weights == shape.quantized_bytes + others


def _scales(state: Any) -> list[torch.Tensor]:
    return [state.absmax, *([state.state2.absmax] if state.nested else [])]


def test_offloading_leaves_on_the_gpu_what_does_not_grow_with_the_layers() -> None:
    shape, pack = qwen3("lora"), 131072
    kept, moved = (memory(shape, pack, True, offloading=offloading).activations for offloading in (False, True))
    assert host_bytes(shape, pack) == pack * 28 * 2 * 2048
    assert kept - moved == pytest.approx(26 / 28 * host_bytes(shape, pack))
    taller = replace(shape, layers=56)
    assert memory(taller, pack, True, offloading=True).activations == moved
    assert memory(shape, pack).activations > kept > moved > 0
