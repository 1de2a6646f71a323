"""Layer inputs that wait for the backward pass in host memory: what gradient checkpointing keeps, off the GPU."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

BLOCK = 1 << 25
"""Bytes of one piece of pinned memory. PyTorch rounds each up to a power of two and keeps it for the next pass."""


class Offload:
    """Moves saved tensors of one shape to host memory while the forward pass goes on, and back in time.

    Copies run on a stream of their own: out while the next layers compute, back one layer ahead of the backward pass.
    The last one is kept on the device too, since it is wanted first. Values are copied bit by bit, so gradients are
    those without it. On a CPU the copies are made all the same, which tests use.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        self._newest: weakref.ref[_Kept] | None = None

    def around(self, shape: tuple[int, ...]) -> AbstractContextManager[Any]:
        """A context for a forward pass, in which saved floating-point tensors of `shape` are offloaded."""
        if not torch.is_grad_enabled():
            return nullcontext()
        if self._device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._newest = None

        def pack(tensor: torch.Tensor) -> torch.Tensor | _Kept:
            here = tensor.device.type == self._device.type and not isinstance(tensor, torch.nn.Parameter)
            wanted = here and tuple(tensor.shape) == shape and tensor.is_floating_point()
            return self._keep(tensor.detach()) if wanted else tensor

        def unpack(kept: torch.Tensor | _Kept) -> torch.Tensor:
            return kept.back() if isinstance(kept, _Kept) else kept

        return saved_tensors_hooks(pack, unpack)

    def _keep(self, tensor: torch.Tensor) -> _Kept:
        newest = self._newest() if self._newest is not None else None
        if newest is not None and newest.holds(tensor):  # saved twice, by two operations
            return newest
        kept = _Kept(tensor, self._stream, newest)
        self._newest = weakref.ref(kept)
        if newest is not None:
            newest.leave()
        return kept


class _Kept:
    """One tensor in host memory. `before` is the one saved before it, which the backward pass wants after it."""

    def __init__(self, tensor: torch.Tensor, stream: Any, before: _Kept | None) -> None:
        self._tensor: torch.Tensor | None = tensor
        self._place, self._version = tensor.data_ptr(), tensor._version
        self._shape, self._dtype, self._device = tensor.shape, tensor.dtype, tensor.device
        self._stream, self._ready = stream, None
        # A weak reference: the graph alone keeps what it needs, so that a pass that fails leaves nothing behind.
        self._before = weakref.ref(before) if before is not None else None
        self._host = self._copied(tensor)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` is this one, still on the device."""
        unchanged = (self._place, self._version, self._dtype) == (tensor.data_ptr(), tensor._version, tensor.dtype)
        return self._tensor is not None and unchanged

    def leave(self) -> None:
        """Gives the device's memory free, once the copy is done."""
        self._tensor = None

    def back(self) -> torch.Tensor:
        """The tensor on its device; the one before it starts on its way back."""
        self._fetch()
        tensor, self._tensor = self._tensor, None
        assert tensor is not None
        if self._ready is not None:
            torch.cuda.current_stream(self._device).wait_event(self._ready)
            self._ready = None
        before = self._before() if self._before is not None else None
        if before is not None:
            before._fetch()
        return tensor

    def _copied(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        if self._stream is None:
            return [flat.clone()]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            pieces = [torch.empty(len(p), dtype=torch.uint8, pin_memory=True) for p in flat.split(BLOCK)]
            for piece, part in zip(pieces, flat.split(BLOCK), strict=True):
                piece.copy_(part, non_blocking=True)
        flat.record_stream(self._stream)  # its memory must not be used anew before the copy is done
        return pieces

    def _fetch(self) -> None:
        if self._tensor is not None:
            return
        flat = torch.empty(sum(map(len, self._host)), dtype=torch.uint8, device=self._device)
        if self._stream is None:
            torch.cat(self._host, out=flat)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))  # the memory may be in use until now
            with torch.cuda.stream(self._stream):
                for part, piece in zip(flat.split(BLOCK), self._host, strict=True):
                    part.copy_(piece, non_blocking=True)
                self._ready = self._stream.record_event()
            flat.record_stream(self._stream)
        self._tensor = flat.view(self._dtype).view(self._shape)
