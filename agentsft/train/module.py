"""One forward pass: a micro-batch in, the summed loss of its targets out. What DDP and FSDP wrap."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from agentsft.batch.collate import MicroBatch
from agentsft.train.attention import Attention
from agentsft.train.loss import Head, chunk_rows, chunked_loss, plain_loss
from agentsft.train.offload import Offload
from agentsft.train.vocabulary import Vocabulary

if TYPE_CHECKING:
    from agentsft.train.tail import Tail

T = TypeVar("T")

PLACES = "tail_places"
"""The decoder's argument for the rows that its `Tail` computes."""


class LossModule(nn.Module):
    """A causal language model that returns sums over a micro-batch's targets instead of logits.

    `model` is a Transformers model or PEFT's wrapper of one. `own_head` False leaves the logits to the model's own
    forward, for heads that `Head` does not know. `tail` is that of its decoder. `compiled` compiles the softmax.
    `offload` keeps the hidden states that wait for the backward pass in host memory. `vocabulary` has the gradient of
    the embeddings, and of a head that is tied to them.
    """

    def __init__(
        self,
        model: Any,
        attention: Attention,
        own_head: bool = True,
        tail: Tail | None = None,
        compiled: bool = False,
        offload: Offload | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.attention = attention
        self.own_head = own_head
        self.tail = tail
        self.compiled = compiled
        self.offload = offload
        self.vocabulary = vocabulary

    def forward(self, batch: MicroBatch, scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of weight * nll (float32, differentiable) and sums of nll by label (float32[len(LABELS)], detached).

        `scale` is what the caller will multiply the sum by before its backward pass, and nothing else, where that is
        known.
        """
        model = base_model(self.model)
        with self._offloaded(model, batch):
            if not self.own_head:
                return plain_loss(model_logits(model, batch, self.attention), batch)
            if self.tail is not None:
                hidden = decode(model.get_decoder(), batch, self.attention, batch.tail)[0, : len(batch.rows)]
            else:
                hidden = decode(model.get_decoder(), batch, self.attention).flatten(0, 1).index_select(0, batch.rows)
        head = Head(model)
        chunk = chunk_rows(head, hidden.device)
        return chunked_loss(head, hidden, batch, chunk, self.compiled, scale, self.vocabulary)

    @torch.no_grad()
    def ask(self, question: Callable[[Any], T]) -> T:
        """`question(model)`, which may run the model or parts of it.

        Under FSDP2 it sees whole weights, as `forward` does, and all processes ask the same together.
        """
        return question(self.model)

    def end_pass(self) -> None:
        """To be called behind a backward pass, whether it went well or failed."""
        if self.vocabulary is not None:
            self.vocabulary.end()

    def _offloaded(self, model: Any, batch: MicroBatch) -> AbstractContextManager[Any]:
        if self.offload is None:
            return nullcontext()
        return self.offload.around((*batch.input_ids.shape, model.config.get_text_config().hidden_size))


def base_model(model: Any) -> Any:
    """The Transformers model inside PEFT's wrapper, or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decode(
    decoder: nn.Module, batch: MicroBatch, attention: Attention, places: torch.Tensor | None = None
) -> torch.Tensor:
    """The decoder's last hidden state [b, n, d]; [1, k, d] of the k `places` where it has a `Tail`."""
    more = {} if places is None else {PLACES: places}
    return decoder(**_inputs(batch, attention), **more).last_hidden_state


def model_logits(model: Any, batch: MicroBatch, attention: Attention) -> torch.Tensor:
    """Logits [u, vocab] at `batch.rows` from the model's own forward, without those of other columns if it can."""
    row, column = batch.rows // batch.input_ids.shape[1], batch.rows % batch.input_ids.shape[1]
    inputs = _inputs(batch, attention)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"], column = torch.unique(column, return_inverse=True)
    return model(**inputs).logits[row, column]


def _inputs(batch: MicroBatch, attention: Attention) -> dict[str, Any]:
    """Rows keep the positions that the model gives them by itself, since not every model takes any."""
    positions = {} if batch.subtree_end is None else {"position_ids": batch.position_ids}
    return {"input_ids": batch.input_ids, "use_cache": False, **positions, **attention.arguments(batch)}
