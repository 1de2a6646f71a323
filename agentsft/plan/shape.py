"""The shape of a model from its configuration alone: its modules without weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train.flops import Flops
from agentsft.train.model import decoder_layers, parameter_counts, with_adapter
from agentsft.train.module import base_model
from agentsft.train.quantize import bytes_each
from agentsft.train.tail import last_feed_forward


@dataclass(frozen=True)
class Shape:
    """Sizes that memory and time follow from. Widths are numbers, not bytes.

    `matrices` are the parameters that matrix products read, `layer_parameters` those of the largest decoder layer,
    `head` those of the output embeddings, `heads` and `key_heads` the widths of all query and all key heads,
    `intermediate` the width of the feed-forward layer (of all experts that a token passes through), `query_norm`
    whether queries and keys are normalized, `gated` whether the feed-forward layer has a gate. `quantized` are the
    parameters in 4 bits, which take `quantized_bytes`, and `largest` those of the largest of their matrices.
    """

    parameters: int
    trainable: int
    matrices: int
    layer_parameters: int
    head: int
    head_trained: bool
    hidden: int
    layers: int
    heads: int
    key_heads: int
    intermediate: int
    vocab: int
    query_norm: bool
    gated: bool
    adapter: bool
    flops: Flops
    quantized: int = 0
    quantized_bytes: float = 0.0
    largest: int = 0


def load_shape(config: TrainConfig) -> Shape:
    """The shape of `config.model` with its adapter. Raises UserError where its configuration cannot be had."""
    try:
        published = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(published, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model {config.model}: its configuration cannot be read ({reason}).") from None
    return shape_of(config, model)


def shape_of(config: TrainConfig, model: Any) -> Shape:
    """The shape of a Transformers model, which may have no weights; it is given its adapter here."""
    text = model.config.get_text_config()
    layers = decoder_layers(model) or nn.ModuleList()
    matrices = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    quantized = _quantized(model) if config.load_in_4bit else []
    if config.tuner != "full":
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks by a name that Transformers 5.23 changed
            model = with_adapter(config, model, None)
    trainable, parameters = parameter_counts(model)
    base = base_model(model)
    head = list(base.get_output_embeddings().parameters()) if base.get_output_embeddings() is not None else []
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    names = {name.rsplit(".", 1)[-1] for layer in layers for name, _ in layer.named_modules()}
    experts = getattr(text, "num_experts_per_tok", None)
    expert_width = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    return Shape(
        parameters=parameters,
        trainable=trainable,
        matrices=matrices,
        layer_parameters=max((sum(p.numel() for p in layer.parameters()) for layer in layers), default=0),
        head=sum(p.numel() for p in head),
        head_trained=any(p.requires_grad for p in head),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads * width,
        key_heads=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * width,
        intermediate=experts * expert_width if experts else text.intermediate_size,
        vocab=text.vocab_size,
        query_norm="q_norm" in names,
        gated=bool(names & {"gate_proj", "gate_up_proj"}) or bool(experts),
        adapter=config.tuner != "full",
        flops=Flops(model, last_feed_forward(model)),
        quantized=sum(quantized),
        quantized_bytes=sum(quantized) * bytes_each(config.bnb_4bit_use_double_quant),
        largest=max(quantized, default=0),
    )


def _quantized(model: Any) -> list[int]:
    """Sizes of the matrices that load_in_4bit quantises: those of all linear layers but the head."""
    head = model.get_output_embeddings()
    return [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
