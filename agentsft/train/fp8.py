"""Matrix products in 8-bit floating point (torchao's float8 training): less exact; an option.

Weights stay what they are in the optimizer and on disk. Inputs, weights and gradients of the decoder's linear layers
are rounded to 8 bits for each product, scaled so that the largest value fits. Embeddings, lm_head, adapters, norms and
attention are not touched.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from agentsft.errors import UserError
from agentsft.train.module import base_model

_MULTIPLE = 16  # of both sizes of a product, which the hardware asks for
_CAPABILITY = (8, 9)


def check_fp8(device: torch.device, precision: str, quantized: bool) -> None:
    """Raises UserError where products in 8 bits cannot be had."""
    if find_spec("torchao") is None:
        raise UserError("fp8 needs torchao: pip install 'agentsft[fp8]'.")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise UserError(f"fp8: {name} has no 8-bit matrix products (H100, L40S, RTX 40 and later have); leave it out.")
    if precision != "bf16":
        raise UserError(f"fp8 rounds what is bfloat16 otherwise, and precision is {precision}; set precision: bf16.")
    if quantized:
        raise UserError("fp8 and load_in_4bit exclude each other: leave one of them out.")


def convert_layers(model: Any, recipe: str, emulate: bool = False) -> int:
    """Give the linear layers of the model's decoder products in 8 bits; how many they are.

    `recipe` is torchao's, tensorwise or rowwise. Layers with sizes that are no multiple of 16 stay as they are.
    `emulate` computes the rounded products in higher precision, on any device.
    """
    from dataclasses import replace

    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = replace(Float8LinearConfig.from_recipe_name(recipe), emulate=emulate, pad_inner_dim=True)
    converted = 0

    def fits(module: nn.Module, name: str) -> bool:
        nonlocal converted
        taken = (
            type(module) is nn.Linear
            and "lora_" not in name
            and not (module.in_features % _MULTIPLE or module.out_features % _MULTIPLE)
        )
        converted += taken
        return taken

    convert_to_float8_training(base_model(model).get_decoder(), module_filter_fn=fits, config=config)
    return converted
