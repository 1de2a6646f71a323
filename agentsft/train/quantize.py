"""A frozen base of 4-bit weights under an adapter (QLoRA, Dettmers et al. 2023), by bitsandbytes."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import torch
from torch import nn

from agentsft.config import TrainConfig
from agentsft.errors import UserError

COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What the matrix products of 4-bit weights compute in, by precision: what autocast's others do."""

BLOCK, BLOCK_OF_SCALES = 64, 256
"""Weights that share a scale, and scales that share one of their own under double quantisation."""

# It says at import, which PEFT may do too, that a kernel for inference on CPUs is absent: training does not use it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_PARTS = re.compile(r"\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)$")


def bitsandbytes() -> Any:
    """The library. Raises UserError where it is absent or broken."""
    try:
        import bitsandbytes
    except Exception as error:  # whatever a library that does not fit torch or the driver may raise
        reason = " ".join(str(error).split())[:200]
        wanted = "pip install 'agentsft[qlora]'"
        raise UserError(f"load_in_4bit needs bitsandbytes, which cannot be imported ({reason}): {wanted}.") from error
    return bitsandbytes


def loading_arguments(config: TrainConfig, precision: str, device: torch.device) -> dict[str, Any]:
    """What from_pretrained is told: 4-bit weights, made on `device` one by one as they are read; nothing where not.

    All linear layers are quantised but the head, whose weight the loss reads. Raises UserError where bitsandbytes
    cannot be imported.
    """
    if not config.load_in_4bit:
        return {}
    bitsandbytes()
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=config.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=COMPUTE[precision],
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def settle(model: Any) -> Any:
    """`model`, whose 4-bit layers stay as they are: on some CPUs evaluation would repack them for good, with rounding.

    Layers repacked so have no gradient either. Raises UserError where the head is quantised.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    if is_quantized(model.get_output_embeddings()):
        raise UserError("load_in_4bit: the model's output embeddings are quantised, which the loss cannot read.")
    return model


def is_quantized(module: nn.Module | None) -> bool:
    """Whether any weight of `module` is quantised by bitsandbytes."""
    return module is not None and any(_state(parameter) is not None for parameter in module.parameters())


def dequantized(model: Any, dtype: torch.dtype) -> Any:
    """`model` with plain linear layers of `dtype` in place of those of 4 bits: the weights that training computed with.

    The configuration no longer names a quantisation, so it is saved as a model of plain weights.
    """
    functional = bitsandbytes().functional
    for name, layer in list(model.named_modules()):
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or _state(weight) is None:
            continue
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        values = functional.dequantize_4bit(weight.data, _state(weight))
        plain.weight = nn.Parameter(values.to(dtype), requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
        model.set_submodule(name, plain)
    for name in ("hf_quantizer", "is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_device_map"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)
    return model.to(dtype)


def size(parameter: torch.Tensor) -> int:
    """How many numbers a parameter stands for: two in each byte of a 4-bit weight."""
    state = _state(parameter)
    return parameter.numel() if state is None else math.prod(state.shape)


def shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """A parameter's shape before it was packed."""
    state = _state(parameter)
    return tuple(parameter.shape if state is None else state.shape)


def is_part_of_weight(name: str) -> bool:
    """Whether an entry of a state dict belongs to a quantised weight: its scales and codes, which never change."""
    return _PARTS.search(name) is not None


def bytes_each(double: bool) -> float:
    """Bytes of a 4-bit weight and its share of the scales (QLoRA's section 3).

    A float32 scale for 64 weights; under double quantisation one of 8 bits, and a float32 for 256 of those.
    """
    scale = 1 + 4 / BLOCK_OF_SCALES if double else 4
    return 0.5 + scale / BLOCK


def _state(parameter: torch.Tensor) -> Any:
    return getattr(parameter, "quant_state", None)
