"""A model for which memory runs out where it is given too many tokens."""

from __future__ import annotations

from typing import Any

import torch


class Scarce:
    """While entered, a pass of `model` over more than `most` tokens fails.

    "forward" fails on the way there, "backward" behind the last layer, "between layers" when some
    gradients are there and others not.
    """

    def __init__(self, model: Any, most: int, where: str = "forward") -> None:
        self.model, self.most, self.where = model, most, where
        self.passes = self.failures = 0

    def __enter__(self) -> Scarce:
        layers = self.model.model.layers
        layer = layers[0] if self.where == "between layers" else layers[-1]
        self.hook = layer.register_forward_hook(self._after)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _after(self, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        self.passes += 1
        if output.shape[:2].numel() <= self.most:
            return
        if self.where == "forward":
            self._fail()
        if output.requires_grad:
            output.register_hook(self._fail)

    def _fail(self, *_: object) -> None:
        self.failures += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
