"""The loss of the targets alone, in chunks: logits exist for a chunk of source rows at a time and are never kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from agentsft.batch.collate import MicroBatch
from agentsft.data.mixture import GROUPS
from agentsft.train.vocabulary import Vocabulary

CHUNK_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
"""Logits of one chunk, by device: large enough that matrix products run at full speed."""

Softmax = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


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

    @property
    def matrix(self) -> nn.Parameter | None:
        """The weight, where the logits are one matrix product with it and nothing else."""
        plain = type(self.embeddings) is nn.Linear and self.embeddings.bias is None
        hooked = plain and (self.embeddings._forward_hooks or self.embeddings._forward_pre_hooks)
        return self.embeddings.weight if plain and not hooked and self.scale == 1.0 and not self.cap else None


def chunk_rows(head: Head, device: torch.device) -> int:
    """How many rows of logits are computed at once on `device`."""
    bytes_each = _dtype(head.embeddings.weight, device).itemsize
    return max(CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"]) // (head.embeddings.weight.shape[0] * bytes_each), 1)


def chunked_loss(
    head: Head,
    hidden: torch.Tensor,
    batch: MicroBatch,
    chunk: int,
    compiled: bool = False,
    scale: float | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of weight * nll over the batch's targets, and the detached sum of nll by label, float32[GROUPS].

    `hidden` [u, d] are the hidden states at `batch.rows`; `head` gives logits [rows, vocab]. With gradients enabled,
    loss and gradients (of `hidden` and of the head's parameters) are computed together, at most `chunk` rows at a
    time, so that logits are neither kept nor computed twice. The softmax is float32.

    `scale` is what the loss will be multiplied by before its backward pass, where that is known: gradients are computed
    with it at once, and the whole of the head's is not multiplied afterwards. With a `vocabulary` the head's is then
    added to the gradient of the passes before.
    """
    parameters = [p for p in head.embeddings.parameters() if p.requires_grad]
    softmax = _compiled_softmax() if compiled else _softmax
    if torch.is_grad_enabled() and (hidden.requires_grad or parameters):
        return _ChunkedLoss.apply(head, batch, chunk, softmax, scale, vocabulary, parameters, hidden, *parameters)
    sums = _Sums(batch, hidden.device)
    for rows in _chunks(len(hidden), chunk):
        sums.add(head(hidden[rows]), rows, softmax)
    return sums.loss, sums.by_label


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        batch: MicroBatch,
        chunk: int,
        softmax: Softmax,
        scale: float | None,
        vocabulary: Vocabulary | None,
        parameters: list[nn.Parameter],
        hidden: torch.Tensor,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The parameters are arguments too, so that autograd hands them their gradients and DDP's hooks fire.
        sums = _Sums(batch, hidden.device)
        d_hidden = torch.empty_like(hidden)
        linear: _Product | _ByAutograd
        if head.matrix is None:
            linear = _ByAutograd(head, parameters)
        else:
            before = vocabulary.before(head.matrix) if vocabulary is not None and scale is not None else None
            linear = _Product(head.matrix, hidden, before)
        for rows in _chunks(len(hidden), chunk):
            d_logits, boost = sums.add(linear.logits(hidden[rows]), rows, softmax)
            factor = (1.0 if scale is None else scale) / boost
            d_rows = linear.backward(d_logits, factor)
            d_hidden[rows] = d_rows * factor if factor != 1.0 else d_rows
        gradients = linear.gradients
        if vocabulary is not None and head.matrix is not None and gradients:
            vocabulary.keep(head.matrix, gradients[0])
            gradients = [gradients[0].detach()]  # of its own for autograd, which would copy what others hold
        ctx.gradients, ctx.scaled = [d_hidden, *gradients], scale is not None
        ctx.mark_non_differentiable(sums.by_label)
        return sums.loss, sums.by_label

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if not ctx.scaled:
            gradients = [gradient.mul_(outer[0]) for gradient in gradients]
        return *(None,) * 7, *gradients


class _Product:
    """Logits as one matrix product, whose weight gradient is summed over the chunks in float32, and to `before`."""

    def __init__(self, weight: nn.Parameter, hidden: torch.Tensor, before: torch.Tensor | None) -> None:
        self.dtype = _dtype(weight, hidden.device)
        self.weight = weight.detach().to(self.dtype)
        # Under FSDP2 the weight has 16 bits, but the sum over the chunks is not rounded each time.
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.gradient, self.empty = before, before is None
        if before is None and weight.requires_grad:
            self.gradient = torch.empty_like(weight, dtype=wide)

    @property
    def gradients(self) -> list[torch.Tensor]:
        if self.gradient is None:
            return []
        return [self.gradient.zero_() if self.empty else self.gradient]

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        self.rows = rows.detach().to(self.dtype)
        return self.rows @ self.weight.T

    def backward(self, d_logits: torch.Tensor, factor: float) -> torch.Tensor:
        if self.gradient is not None:
            _add_product(self.gradient, d_logits.T, self.rows, factor, 0.0 if self.empty else 1.0)
            self.empty = False
        return d_logits @ self.weight


class _ByAutograd:
    """Any other head: its gradients come from autograd, chunk by chunk."""

    def __init__(self, head: Head, parameters: list[nn.Parameter]) -> None:
        self.head, self.parameters = head, parameters
        self.gradients = [torch.zeros_like(p) for p in parameters]

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            self.rows = rows.detach().requires_grad_()
            self.output = self.head(self.rows)
        return self.output.detach()

    def backward(self, d_logits: torch.Tensor, factor: float) -> torch.Tensor:
        inputs = [self.rows, *self.parameters]
        d_rows, *grads = torch.autograd.grad(self.output, inputs, d_logits, allow_unused=True)
        for kept, grad in zip(self.gradients, grads, strict=True):
            if grad is not None:
                kept.add_(grad, alpha=factor)
        return d_rows


class _Sums:
    """The loss and the losses by label, summed chunk by chunk."""

    def __init__(self, batch: MicroBatch, device: torch.device) -> None:
        self.batch = batch
        self.loss = torch.zeros((), device=device)
        self.by_label = torch.zeros(GROUPS, device=device)

    def add(self, logits: torch.Tensor, rows: slice, softmax: Softmax) -> tuple[torch.Tensor, float]:
        """Adds the chunk of `rows`; gives boost * d loss / d logits, and the boost.

        A row's gradient is (sum of its targets' weights) * softmax, less each target's weight at its token. In
        float16 it is scaled up, since small probabilities would vanish.
        """
        batch = self.batch
        boost = 1024.0 if logits.dtype == torch.float16 else 1.0
        targets = slice(int(batch.row_start[rows.start]), int(batch.row_start[rows.stop]))
        row, token, weight = batch.row[targets] - rows.start, batch.token[targets], batch.weight[targets]
        row_weight = torch.zeros(len(logits), device=logits.device).index_add_(0, row, weight)
        lse, d_logits = (softmax if len(logits) > 1 else _softmax)(logits, row_weight * boost)
        nll = lse[row] - logits[row, token].float()
        self.loss += (weight * nll).sum()
        self.by_label.index_add_(0, batch.label[targets], nll)
        # Computed in float32 and set, not subtracted: near a probability of 1 the difference is small.
        at_target = row_weight[row] * torch.exp(-nll) - batch.together[targets]
        d_logits.index_put_((row, token), (at_target * boost).to(d_logits.dtype))
        return d_logits, boost


def _softmax(logits: torch.Tensor, row_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's log-sum-exp, float32[rows], and row_weight * softmax in the dtype of `logits` [rows, vocab]."""
    lse = torch.logsumexp(logits.float(), dim=-1)
    return lse, (logits - lse[:, None]).exp_().mul_(row_weight[:, None]).to(logits.dtype)


@functools.cache
def _compiled_softmax() -> Softmax:
    """`_softmax` as one kernel that reads the logits and writes the gradient, with nothing of float32 between."""
    return torch.compile(_softmax, dynamic=True)


def _chunks(rows: int, chunk: int) -> list[slice]:
    """As few slices as possible of at most `chunk` rows, of about equal length."""
    number = -(-rows // chunk)
    bounds = [rows * i // max(number, 1) for i in range(number + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _dtype(weight: torch.Tensor, device: torch.device) -> torch.dtype:
    """What a matrix product with `weight` computes in: autocast's dtype, else the weight's."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, factor: float, keep: float) -> None:
    """total = keep * total + factor * a @ b, without rounding the product to the factors' 16 bits where the device can.

    With a `keep` of 0 nothing is read of `total`, which may be uninitialised.
    """
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=keep, alpha=factor)
    elif total.device.type == "cuda" and total.dtype == torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, beta=keep, alpha=factor, out=total)
    else:
        (total if keep else total.zero_()).add_(a @ b, alpha=factor)


def plain_loss(logits: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The same two sums from logits [u, vocab] of `batch.rows`, for models whose head is not ours to repeat."""
    nll = -torch.log_softmax(logits, dim=-1, dtype=torch.float32)[batch.row, batch.token]
    by_label = torch.zeros(GROUPS, device=nll.device).index_add_(0, batch.label, nll.detach())
    return (batch.weight * nll).sum() + 0.0 * logits.sum(), by_label
