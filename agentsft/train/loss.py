"""The loss of the targets alone, in chunks: logits exist for a chunk of source rows at a time and are never kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from agentsft.batch.collate import MicroBatch
from agentsft.types import LABELS

CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Logits of one chunk, by device: large enough that matrix products run at full speed."""


class Head:
    """A causal language model's way from hidden states to logits: output embeddings, then scaling, then capping.

    Scaling and capping are Cohere's logit_scale, Granite's logits_scaling and Gemma's final_logit_softcapping. No
    module of its own, since its parameters are the model's.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.embeddings = model.get_output_embeddings()
        self.scale = getattr(config, "logit_scale", None) or 1.0
        self.scale /= getattr(config, "logits_scaling", None) or 1.0
        self.cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.embeddings(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def chunked_loss(head: Head, hidden: torch.Tensor, batch: MicroBatch, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of weight * nll over the batch's targets, and the detached sum of nll by label, float32[len(LABELS)].

    `hidden` [u, d] are the hidden states at `batch.rows`; `head` gives logits [rows, vocab]. With gradients enabled,
    loss and gradients (of `hidden` and of the head's parameters) are computed together, `chunk` rows at a time, so
    that logits are neither kept nor computed twice. The log-softmax is float32.
    """
    parameters = [p for p in head.embeddings.parameters() if p.requires_grad]
    if torch.is_grad_enabled() and (hidden.requires_grad or parameters):
        return _ChunkedLoss.apply(head, batch, chunk, parameters, hidden, *parameters)
    loss, by_label = _zeros(hidden)
    for start in range(0, len(hidden), chunk):
        _add_chunk(loss, by_label, head(hidden[start : start + chunk]), batch, start, need_grad=False)
    return loss, by_label


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        batch: MicroBatch,
        chunk: int,
        parameters: list[nn.Parameter],
        hidden: torch.Tensor,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The parameters are arguments too, so that autograd hands them their gradients and DDP's hooks fire.
        loss, by_label = _zeros(hidden)
        d_hidden = torch.zeros_like(hidden)
        d_parameters: list[torch.Tensor | None] = [None] * len(parameters)
        for start in range(0, len(hidden), chunk):
            with torch.enable_grad():
                rows = hidden[start : start + chunk].detach().requires_grad_()
                logits = head(rows)
            d_logits, boost = _add_chunk(loss, by_label, logits.detach(), batch, start, need_grad=True)
            grads = torch.autograd.grad(logits, [rows, *parameters], d_logits, allow_unused=True)
            d_hidden[start : start + chunk] = grads[0] / boost if boost != 1.0 else grads[0]
            for i, grad in enumerate(grads[1:]):
                if grad is not None:
                    grad = grad.div_(boost) if boost != 1.0 else grad
                    kept = d_parameters[i]
                    d_parameters[i] = grad if kept is None else kept.add_(grad)
        given = zip(parameters, d_parameters, strict=True)
        ctx.gradients = [d_hidden, *(torch.zeros_like(p) if grad is None else grad for p, grad in given)]
        ctx.mark_non_differentiable(by_label)
        return loss, by_label

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, None, *(gradient.mul_(outer[0]) for gradient in gradients)


def _zeros(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros(len(LABELS), dtype=torch.float32)


def _add_chunk(
    loss: torch.Tensor, by_label: torch.Tensor, logits: torch.Tensor, batch: MicroBatch, start: int, need_grad: bool
) -> tuple[torch.Tensor, float]:
    """Adds the chunk whose first row is `start` to the sums; gives boost * d loss / d logits, and the boost.

    A row's gradient is (sum of its targets' weights) * softmax minus each target's weight at its token. In float16
    it is scaled up, since small probabilities would vanish.
    """
    first, last = batch.row_start[start], batch.row_start[start + len(logits)]
    targets = slice(int(first), int(last))
    row, token, weight = batch.row[targets] - start, batch.token[targets], batch.weight[targets]
    log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    nll = -log_p[row, token]
    loss += (weight * nll).sum()
    by_label.index_add_(0, batch.label[targets], nll)
    if not need_grad:
        return log_p, 1.0
    row_weight = torch.zeros_like(log_p[:, 0]).index_add_(0, row, weight)
    d_logits = log_p.exp_().mul_(row_weight[:, None])
    d_logits.index_put_((row, token), -weight, accumulate=True)
    boost = 1024.0 if logits.dtype == torch.float16 else 1.0
    return d_logits.mul_(boost).to(logits.dtype) if boost != 1.0 else d_logits.to(logits.dtype), boost


def plain_loss(logits: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The same two sums from logits [u, vocab] of `batch.rows`, for models whose head is not ours to repeat."""
    nll = -torch.log_softmax(logits, dim=-1, dtype=torch.float32)[batch.row, batch.token]
    by_label = torch.zeros(len(LABELS), device=nll.device).index_add_(0, batch.label, nll.detach())
    return (batch.weight * nll).sum() + 0.0 * logits.sum(), by_label
