"""Teacher-forced loss of each conversation, by the formula of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.batch.split import chains, split_tree
from agentsft.errors import UserError
from agentsft.train.layout import Layout, choose_layout
from agentsft.train.loss import Head
from agentsft.train.memory import out_of_memory
from agentsft.train.module import base_model, decode, model_logits
from agentsft.train.probe import head_fault
from agentsft.types import LABELS, TokenTree

FILL = {"cpu": 1024, "cuda": 16384}
"""Tokens of one forward pass, by device."""

_CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Logits that are there at once, by device."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """One row a conversation. `weighted` float64[n]: the sum of weight * nll; `items` int64[n]: targets of weight > 0;
    `nll` float64[n, len(LABELS)] and `counts` int64[n, len(LABELS)]: by label, the sum of nll without weights and the
    number of targets.
    """

    weighted: np.ndarray
    items: np.ndarray
    nll: np.ndarray
    counts: np.ndarray


@torch.no_grad()
def held_out_losses(
    model: Any,
    trees: Sequence[TokenTree],
    fill: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
    note: Callable[[str], None] = lambda text: None,
) -> Losses:
    """The losses of `trees` under `model` (a Transformers model or PEFT's wrapper), in eval mode on its device.

    `fill` is the most tokens of a forward pass; a single path may exceed it. `advance` hears of conversations as they
    are done, `note` of attention that had to be given up. The model's attention is afterwards what it was. Raises
    UserError where memory runs out.
    """
    model.eval()
    inner = base_model(model)
    own = inner.config._attn_implementation
    fill = fill or FILL.get(inner.device.type, FILL["cpu"])
    longest = max(int(tree.position_ids.max()) + 1 for tree in trees)
    layout = choose_layout(inner, longest, False, None, False)
    for text in layout.notes:
        note(text)
    own_head = not head_fault(inner)
    shape = (len(trees), len(LABELS))
    losses = Losses(np.zeros(len(trees)), np.zeros(len(trees), np.int64), np.zeros(shape), np.zeros(shape, np.int64))
    try:
        for pack, owners in _packs(trees, fill, layout):
            _add(losses, inner, pack, owners, layout, own_head)
            advance(len(set(owners.tolist())))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            "out of memory while the loss was computed; use a GPU with more, or --max-length to leave out the longest."
        ) from None
    finally:
        inner.set_attn_implementation(own)
    return losses


def _packs(trees: Sequence[TokenTree], fill: int, layout: Layout) -> Iterator[tuple[Pack, np.ndarray]]:
    """Packs of about `fill` tokens, and the tree to which each of a pack's pieces belongs; the longest trees first."""
    order = sorted(range(len(trees)), key=lambda i: (-len(trees[i]), i))
    pieces: list[TokenTree] = []
    owners: list[int] = []
    tokens = 0
    for i in order:
        for piece in chains(trees[i]) if layout.split else split_tree(trees[i], fill):
            if pieces and (layout.alone or tokens + len(piece) > fill):
                yield Pack(tuple(pieces), layout.rows), np.array(owners)
                pieces, owners, tokens = [], [], 0
            pieces.append(piece)
            owners.append(i)
            tokens += len(piece)
    if pieces:
        yield Pack(tuple(pieces), layout.rows), np.array(owners)


def _add(losses: Losses, model: Any, pack: Pack, owners: np.ndarray, layout: Layout, own_head: bool) -> None:
    flex = layout.attention.mode == "flex"
    batch = collate(pack, FLEX_BLOCK if flex else 1, arrange=flex)
    columns = batch.input_ids.shape[1]
    starts = np.cumsum([0, *map(len, pack.trees)])[:-1]
    starts = np.arange(len(pack.trees)) * columns if pack.rows else starts
    places = batch.rows.numpy()[batch.row.numpy()]
    owner = owners[np.searchsorted(starts, places, side="right") - 1]
    label, weight = batch.label.numpy(), batch.weight.numpy().astype(np.float64)
    nll = _nll(model, batch.to(model.device), layout, own_head).cpu().numpy().astype(np.float64)
    np.add.at(losses.weighted, owner, weight * nll)
    np.add.at(losses.items, owner, 1)
    np.add.at(losses.nll, (owner, label), nll)
    np.add.at(losses.counts, (owner, label), 1)


def _nll(model: Any, batch: MicroBatch, layout: Layout, own_head: bool) -> torch.Tensor:
    """float32[m]: the negative log-likelihood of each target, its log-softmax in float32."""
    if not own_head:
        logits = model_logits(model, batch, layout.attention)
        return -torch.log_softmax(logits, dim=-1, dtype=torch.float32)[batch.row, batch.token]
    hidden = decode(model.get_decoder(), batch, layout.attention).flatten(0, 1).index_select(0, batch.rows)
    head = Head(model)
    at_once = _CHUNK_LOGITS.get(hidden.device.type, _CHUNK_LOGITS["cpu"])
    chunk = max(at_once // head.embeddings.weight.shape[0], 1)
    parts = []
    for start in range(0, len(hidden), chunk):
        log_p = torch.log_softmax(head(hidden[start : start + chunk]), dim=-1, dtype=torch.float32)
        here = slice(int(batch.row_start[start]), int(batch.row_start[min(start + chunk, len(hidden))]))
        parts.append(-log_p[batch.row[here] - start, batch.token[here]])
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
