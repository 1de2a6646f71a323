"""Rounding trained weights to 16 bits without losing what training did in steps smaller than those of the format."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import nn

CHUNK = 1 << 26
"""Elements rounded at once: random numbers take 4 bytes for each of them."""


def round_weights(model: nn.Module, dtype: torch.dtype, seed: int) -> None:
    """Makes `model` one of `dtype`. Float32 weights go to bfloat16 up or down by chance, to others as the nearest.

    A published weight is a bfloat16, and training moves it by less than half the distance to the next one where the
    learning rate is small or steps are few: the nearest would often be the published one again. By chance the mean is
    right: a weight at a quarter of the way goes up in one of four cases. Weights that are bfloat16 already stay.
    `seed` and a weight's name decide the numbers.
    """
    if dtype == torch.bfloat16:
        for name, weight in model.named_parameters():
            if weight.dtype == torch.float32:
                generator = torch.Generator(weight.device).manual_seed(crc32(name.encode()) ^ seed)
                _round(weight.detach(), generator)
    model.to(dtype)


def _round(weight: torch.Tensor, generator: torch.Generator) -> None:
    """Rounds float32 values, in place, to those of a bfloat16: the 16 upper bits, the last one carried by chance."""
    local = weight.to_local() if hasattr(weight, "to_local") else weight
    for part in local.view(-1).split(CHUNK):
        bits = part.view(torch.int32)
        bits += torch.randint(1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
        bits &= -(1 << 16)
