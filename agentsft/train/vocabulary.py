"""Gradients of the vocabulary's matrices, to which the head's products and the embeddings' rows are added in place.

By itself autograd makes a matrix of that size for the head in each pass, one for the embeddings that is zero almost
everywhere, and adds both to the passes before: for a vocabulary of 150,000 a good part of all that is read and written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Vocabulary:
    """The gradients of embeddings and `head`, which are one where both are tied, while a pass runs.

    `embeddings` look their rows up through it from now on. It is for passes whose gradients are all thrown away where
    one of them fails, as `agentsft.train.passes` does.
    """

    def __init__(self, embeddings: nn.Embedding, head: nn.Parameter | None) -> None:
        self.weight, self.padding, self.head = embeddings.weight, embeddings.padding_idx, head
        self.total: torch.Tensor | None = None
        vars(embeddings)["forward"] = self._look_up

    def before(self, weight: nn.Parameter) -> torch.Tensor | None:
        """The gradient of the passes before, for the head's products to add to; nobody else has it from now on."""
        if weight is not self.head:
            return None
        self.total, weight.grad = weight.grad, None
        return self.total

    def keep(self, weight: nn.Parameter, gradient: torch.Tensor) -> None:
        """`gradient` is that of `weight` until the pass ends: rows of tied embeddings are added to it where it lies."""
        self.total = gradient if weight is self.head else None

    def end(self) -> None:
        """Lets go of the gradient after a pass; one that failed gets it back, so that it stays where DDP has it."""
        if self.total is not None and self.head is not None and self.head.grad is None:
            self.head.grad = self.total
        self.total = None

    def _look_up(self, ids: torch.Tensor) -> torch.Tensor:
        return _LookUp.apply(ids, self.weight, self)

    def _add(self, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
        """Adds `rows` [..., d] to those of the gradient at `ids` [...]; gives it where the head does not."""
        shared = self.total if self.weight is self.head else None
        total = self.weight.grad if shared is None else shared
        if total is None:
            total = torch.zeros_like(self.weight)
        if self.padding is not None:
            rows = rows.masked_fill((ids == self.padding)[..., None], 0.0)
        total.index_put_((ids,), rows.to(total.dtype), accumulate=True)
        if shared is not None:
            return None
        self.weight.grad = None
        return total.detach()


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: nn.Parameter, vocabulary: Vocabulary) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.vocabulary = vocabulary
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *rows: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [ids] = ctx.saved_tensors
        return None, ctx.vocabulary._add(ids, rows[0]), None


def find_vocabulary(model: Any) -> Vocabulary | None:
    """The vocabulary of `model`, a Transformers model; None where its embeddings are not trained, or do more than look
    rows up."""
    embeddings = model.get_input_embeddings()
    plain = type(embeddings) is nn.Embedding and embeddings.max_norm is None and not embeddings.sparse
    if not plain or embeddings.scale_grad_by_freq or not embeddings.weight.requires_grad:
        return None
    head = model.get_output_embeddings()
    return Vocabulary(embeddings, getattr(head, "weight", None))
