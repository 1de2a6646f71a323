"""Behind its last attention a decoder treats every token by itself: only the rows that the loss reads are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from agentsft.batch.collate import MicroBatch
from agentsft.batch.pack import Pack
from agentsft.train.attention import Attention
from agentsft.train.model import decoder_layers
from agentsft.train.module import PLACES, decode
from agentsft.train.probe import batch_of, difference, evaluating, forest, tolerance


class Tail:
    """Makes a decoder leave out rows before its last `norm` and in the last layer's `feed_forward` part, if given.

    The rows computed are those of the argument `PLACES` of the decoder, int64[k]: places in b * n that hold all
    targets' sources, and perhaps others, whose gradient must be zero. The last hidden state then is [1, k, d].
    Without that argument, in generation for one, all rows are computed.
    """

    def __init__(self, decoder: nn.Module, norm: nn.Module, feed_forward: nn.Module | None) -> None:
        self.norm, self.feed_forward = norm, feed_forward
        self._places: torch.Tensor | None = None
        self._hook = decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        norm.forward = self._at_places(norm.forward, back=False)
        if feed_forward is not None:
            feed_forward.forward = self._at_places(feed_forward.forward, back=True)

    def remove(self) -> None:
        """Makes the decoder what it was."""
        self._hook.remove()
        for module in filter(None, (self.norm, self.feed_forward)):
            del module.forward

    def _begin(self, decoder: nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # Kept until the next pass, since gradient checkpointing runs the layer again in the backward pass.
        self._places = named.pop(PLACES, None)
        return args, named

    def _at_places(self, forward: Callable[..., Any], back: bool) -> Callable[..., Any]:
        def at_places(hidden: torch.Tensor, *args: Any, **named: Any) -> Any:
            if self._places is None:
                return forward(hidden, *args, **named)
            output = forward(_take(hidden, self._places), *args, **named)
            return _put(output, self._places, hidden.shape) if back else output

        return at_places


@torch.library.custom_op("agentsft::take_rows", mutates_args=())
def _take(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """hidden [b, n, d] -> [1, k, d]. Autograd's own way back adds up, by atomic operations, since rows may repeat."""
    return hidden.flatten(0, 1).index_select(0, places)[None]


@_take.register_fake
def _(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return hidden.new_empty(1, places.shape[0], hidden.shape[2])


def _keep(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.shape = inputs[0].shape


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    [places] = ctx.saved_tensors
    return _put(gradient, places, ctx.shape), None


_take.register_autograd(_backward, setup_context=_keep)


def _put(values: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """values [1, k, d] -> `shape` [b, n, d], zeros elsewhere: there the residual stream goes on as it is, unread."""
    whole = values.new_zeros(shape[0] * shape[1], shape[2])
    return whole.index_copy(0, places, values[0]).view(shape)


def find_tail(model: Any) -> Tail | None:
    """A tail of `model`, a Transformers model, that gives the hidden states of all rows; None where there is none."""
    rows = Attention("rows", model.device)
    batch = batch_of(model, Pack((forest(model)[1],), rows=True), rows)
    with evaluating(model):
        norm, whole = _last_module(model.get_decoder(), batch)
        if norm is None:
            return None
        for feed_forward in dict.fromkeys((last_feed_forward(model), None)):
            tail = Tail(model.get_decoder(), norm, feed_forward)
            if _agrees(model, batch, whole):
                return tail
            tail.remove()
    return None


def last_feed_forward(model: Any) -> nn.Module | None:
    """The feed-forward part of the last layer, by the name that Transformers' models give it."""
    layers = decoder_layers(model)
    found = getattr(layers[-1], "mlp", None) if layers is not None and len(layers) else None
    return found if isinstance(found, nn.Module) else None


def _last_module(decoder: nn.Module, batch: MicroBatch) -> tuple[nn.Module | None, torch.Tensor]:
    """The part of `decoder` that gives the last hidden state of all rows, if one does; and that state."""
    outputs: list[tuple[nn.Module, Any]] = []
    hooks = [
        part.register_forward_hook(lambda module, args, output: outputs.append((module, output)))
        for part in decoder.children()
    ]
    try:
        hidden = decode(decoder, batch, Attention("rows", batch.input_ids.device))
    finally:
        for hook in hooks:
            hook.remove()
    return next((module for module, output in outputs if output is hidden), None), hidden


def _agrees(model: Any, batch: MicroBatch, whole: torch.Tensor) -> bool:
    """Whether some rows computed alone are those of `whole`."""
    places = torch.tensor([1, 2, 4], device=whole.device)
    try:
        some = decode(model.get_decoder(), batch, Attention("rows", whole.device), places)
    except Exception:  # whatever a model's code may raise, such as for an output that is no tensor
        return False
    expected = whole.flatten(0, 1)[places][None]
    return some.shape == expected.shape and difference(some.float(), expected.float()) <= tolerance(model)
