"""Floating-point operations of the model, counted honestly: no padding, no masked pairs, no untrained logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from agentsft.train.module import base_model
from agentsft.train.quantize import shape, size
from agentsft.types import TokenTree

PEAK = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "MI300X": 1307e12,
}
"""Dense bfloat16 FLOP/s by a part of the device's name, from the makers' data sheets; the first match counts."""


def peak_flops(device: torch.device) -> float | None:
    """Peak of one device, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK.items() if part in name), None)


class Flops:
    """Forward and backward cost of `model` (a Transformers model or PEFT's wrapper of one).

    `at_rows` are matrices that are computed at the rows alone whose hidden state the loss reads.

    A matrix product costs 2 per parameter and token forward, 2 for the gradient of its input, 2 for that of its
    weight where it is trained (Kaplan et al. 2020, section 2.1). Attention costs 4 * heads * head_dim per pair
    forward and twice that backward, over the pairs that the mask allows.
    """

    def __init__(self, model: Any, at_rows: nn.Module | None = None) -> None:
        base = base_model(model)
        text = base.config.get_text_config()
        embeddings = {id(p) for m in base.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        head = base.get_output_embeddings()
        head_parameters = list(head.parameters()) if head is not None else []
        self.per_row = sum(_cost(p, text) for p in head_parameters if p.ndim >= 2)
        embeddings |= {id(p) for p in head_parameters}
        self.per_token = sum(_cost(p, text) for p in base.parameters() if p.ndim >= 2 and id(p) not in embeddings)
        less = sum(_cost(p, text) for p in at_rows.parameters() if p.ndim >= 2) if at_rows is not None else 0.0
        self.per_row, self.per_token = self.per_row + less, self.per_token - less
        heads = getattr(text, "num_attention_heads", 0)
        width = heads * (getattr(text, "head_dim", None) or text.hidden_size // max(heads, 1))
        self.windows = {window: 12 * width * layers for window, layers in _windows(text).items()}

    @property
    def pair_cost(self) -> float:
        """Cost of a pair in attention as a share of a token's matrix products."""
        return sum(self.windows.values()) / max(self.per_token, 1)

    def count(self, trees: Iterable[TokenTree]) -> float:
        """FLOPs of a forward and backward pass over `trees`."""
        return sum(
            self.per_token * len(tree) + self.per_row * len(np.unique(tree.source)) + self.attention(tree)
            for tree in trees
        )

    def attention(self, tree: TokenTree) -> float:
        """Those of attention alone."""
        seen = tree.position_ids.astype(np.int64) + 1
        return sum(cost * int(np.minimum(seen, window or len(tree)).sum()) for window, cost in self.windows.items())


def _cost(parameter: nn.Parameter, config: Any) -> float:
    """FLOPs per token of a matrix; of stacked experts [e, ., .] only those that a token passes through."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 0
    stacked = parameter.ndim == 3 and shape(parameter)[0] == experts
    share = getattr(config, "num_experts_per_tok", experts) / experts if stacked else 1.0
    return (6.0 if parameter.requires_grad else 4.0) * size(parameter) * share


def _windows(config: Any) -> Counter[int | None]:
    """Number of attention layers by how many tokens they see (None: all)."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    sizes = {"full_attention": None, "sliding_attention": window}
    return Counter(sizes[kind] for kind in kinds if kind in sizes)
