"""The plan's arithmetic against models that exist and runs that were measured."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from agentsft.config import TrainConfig
from agentsft.plan.memory import GIB, memory
from agentsft.plan.shape import Shape, shape_of

PEAKS = [(16128, 62.6), (16128, 65.8), (11904, 54.6)]
"""Tokens of a pack and peak GiB of runs on an H100 (docs/performance.md): tau-bench with FlashAttention-4 and with
Triton, ToolBench; Qwen3-1.7B's shape, full fine-tuning, bf16 autocast, no gradient checkpointing."""


def qwen3(tuner: str = "full") -> Shape:
    config = Qwen3Config(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        return shape_of(TrainConfig(tuner=tuner), AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(("pack", "peak"), PEAKS)
def test_memory_is_within_15_percent_of_what_a_gpu_took(pack: int, peak: float) -> None:
    assert memory(qwen3(), pack).total / GIB == pytest.approx(peak, rel=0.15)
