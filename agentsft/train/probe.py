"""Questions put to the real model before the first step: does our way of computing give what Transformers gives?"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack
from agentsft.batch.split import chains
from agentsft.train.attention import Attention
from agentsft.train.layerwise import States, layer_states, layers_agree, merged
from agentsft.train.loss import Head
from agentsft.train.model import decoder_layers
from agentsft.train.module import decode, model_logits
from agentsft.types import TokenTree


def attention_fault(model: Any, attention: Attention, own: str) -> str:
    """Why a small forest's hidden states differ from those of its paths, each run alone by Transformers; '' if not.

    `model` runs the forest with its present attention implementation and the paths with `own`, Transformers' choice.
    """
    trees = forest(model)
    pieces = [piece for tree in trees for piece in chains(tree)]
    rows = attention.mode == "rows"
    together = batch_of(model, Pack(tuple(pieces if rows else trees), rows), attention)
    alone = [batch_of(model, Pack((piece,), rows=True), Attention("rows", model.device)) for piece in pieces]
    implementation = model.config._attn_implementation
    try:
        with evaluating(model):
            ours = _hidden(model, together, attention)
            model.set_attn_implementation(own)
            theirs: dict[int, torch.Tensor] = {}
            for batch in alone:
                theirs |= _hidden(model, batch, Attention("rows", model.device))
            apart = difference(torch.stack([ours[token] for token in theirs]), torch.stack(list(theirs.values())))
            agree = apart <= tolerance(model)
            if not agree and model.dtype != torch.float32:  # what 16 bits round adds up over many layers
                states = functools.reduce(merged, [_states(model, b, Attention("rows", model.device)) for b in alone])
                model.set_attn_implementation(implementation)
                agree = layers_agree(_states(model, together, attention, states), states)
    except Exception as error:  # whatever a model's code may raise
        return f"it fails with {type(error).__name__} ({' '.join(str(error).split())[:200]})"
    finally:
        model.set_attn_implementation(implementation)
    return "" if agree else f"a small token tree and its paths differ by {apart:.1e} of the largest hidden state"


def head_fault(model: Any) -> str:
    """Why `Head` may not stand for the model's own way to logits, or ''."""
    rows = Attention("rows", model.device)
    batch = batch_of(model, Pack((forest(model)[1],), rows=True), rows)
    try:
        with evaluating(model):
            theirs = model_logits(model, batch, rows).float()
            ours = Head(model)(decode(model.get_decoder(), batch, rows).flatten(0, 1)[batch.rows]).float()
    except Exception as error:  # a model without such parts
        return f"it fails with {type(error).__name__} ({' '.join(str(error).split())[:200]})"
    if ours.shape == theirs.shape and (apart := difference(ours, theirs)) <= tolerance(model):
        return ""
    return "its logits are not those of the output embeddings" + (
        f" (they differ by {apart:.1e} of the largest)" if ours.shape == theirs.shape else ""
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients; afterwards the model is in the mode it was in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def batch_of(model: Any, pack: Pack, attention: Attention) -> MicroBatch:
    """The tensors of `pack` on the model's device, padded as `attention` needs."""
    flex = attention.mode == "flex"
    return collate(pack, FLEX_BLOCK if flex else 1, arrange=flex).to(model.device)


def _hidden(model: Any, batch: MicroBatch, attention: Attention) -> dict[int, torch.Tensor]:
    """The hidden state (float32) of every target of the batch, by the target's token."""
    hidden = decode(model.get_decoder(), batch, attention).flatten(0, 1).float()
    return dict(zip(batch.token.tolist(), hidden[batch.rows[batch.row]], strict=True))


def _states(model: Any, batch: MicroBatch, attention: Attention, given: States | None = None) -> States:
    layers = decoder_layers(model) or ()
    return layer_states(list(layers), batch, lambda: decode(model.get_decoder(), batch, attention), given)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def tolerance(model: Any) -> float:
    """How far hidden states that should be equal may lie apart."""
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def forest(model: Any) -> list[TokenTree]:
    """A tree that branches at two depths, and a chain; every token is a target, told apart by its `token`.

    The tokens' ids are all different, and none is 0.
    """
    parents = [[-1, 0, 1, 2, 3, 4, 5, 3, 7, 8, 1, 10, 11], [-1, 0, 1, 2, 3, 4, 5]]
    vocab_size = model.config.get_text_config().vocab_size
    tokens, trees, first = 1 + np.random.default_rng(0).permutation(vocab_size - 1), [], 0
    for parent in parents:
        n = len(parent)
        depth, end = np.zeros(n, np.int32), np.arange(1, n + 1, dtype=np.int32)
        for node in range(1, n):
            depth[node] = depth[parent[node]] + 1
        for node in range(n - 1, 0, -1):
            end[parent[node]] = max(end[parent[node]], end[node])
        ids, source = tokens[first : first + n].astype(np.int32), np.arange(n, dtype=np.int32)
        trees.append(TokenTree(ids, depth, end, source, source + first, np.ones(n, np.float32), np.zeros(n, np.int8)))
        first += n
    return trees
