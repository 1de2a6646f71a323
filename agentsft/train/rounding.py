"""Between float32 weights and those of 16 bits: without losing what training does in steps smaller than theirs.

A published weight is a bfloat16, and training moves it by less than half the distance to the next one where the
learning rate is small or steps are few: the nearest would often be the published one again, in what is saved, and in
each product that is computed in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import torch
from torch import nn

from agentsft.train.shard import own_part

CHUNK = 1 << 24
"""Elements that are worked on at once: random numbers take 8 bytes for each of them, a few times over."""

MATRICES = 2
"""Dimensions from which on weights are computed with in 16 bits by autocast: norms and biases are not."""


@torch.no_grad()
def place_weights(model: nn.Module, seed: int, least: int = MATRICES) -> None:
    """Moves each trained float32 number that bfloat16 holds too to a random place among those that round to it.

    The model that bfloat16 computes with is the same, but as many weights cross to a neighbour in a step as the step is
    long, where otherwise all would wait, or go, together. Weights with fewer than `least` dimensions stay, and so do
    zeros. `seed`, a weight's name and the place in it decide the numbers, whatever device or shard it is on.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.dtype == torch.float32 and weight.ndim >= least:
            for part, random in _parts(weight, f"{seed} place {name}"):
                bits = part.view(torch.int32)
                on_grid = (bits & 0xFFFF == 0) & (part != 0)
                bits += torch.where(on_grid, random % 0xFFFF - 0x7FFF, 0)  # the halves are 0x8000 away


@torch.no_grad()
def round_weights(model: nn.Module, dtype: torch.dtype, seed: int, placed: int | None = None) -> None:
    """To be called before `model` becomes one of `dtype`: float32 weights go to a bfloat16 by chance, up or down.

    So the mean is right: a weight at a quarter of the way goes up in one of four cases. Weights that are bfloat16
    already stay. Those that were placed at random before they were trained, of at least `placed` dimensions (None: none
    was), have had their chance and stay too: the nearest, to which any cast takes them, is what they were computed
    with. So does all where `dtype` is another. `seed`, a weight's name and the place in it decide the numbers.
    """
    if dtype == torch.bfloat16:
        for name, weight in model.named_parameters():
            if weight.dtype == torch.float32 and (placed is None or weight.ndim < placed):
                for part, random in _parts(weight, f"{seed} round {name}"):
                    bits = part.view(torch.int32)
                    bits += random & 0xFFFF  # carries into the 16 upper bits, which are a bfloat16's
                    bits &= -(1 << 16)


def _parts(weight: torch.Tensor, key: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What this process holds of `weight`, in flat parts to be changed, each with random numbers of 32 bits (int64)."""
    local, offset = own_part(weight)
    place = offset[0] * weight.shape[1:].numel() if offset else 0
    rows = local.contiguous()  # a copy of a weight that lies in memory by columns
    for part in rows.view(-1).split(CHUNK):
        yield part, _random(key, place, part)
        place += len(part)
    if rows is not local:
        local.copy_(rows)


def _random(key: str, place: int, part: torch.Tensor) -> torch.Tensor:
    """Numbers that depend on `key` and place alone: lowbias32 of https://github.com/skeeto/hash-prospector, twice."""
    x = torch.arange(place, place + len(part), device=part.device)
    for extra in (0, crc32(key.encode())):
        x = (x ^ extra) & 0xFFFFFFFF
        x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
        x ^= x >> 16
    return x
