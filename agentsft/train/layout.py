"""Choosing between token trees and padded paths: by the model's configuration, then by a probe of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentsft.batch.collate import collate
from agentsft.batch.pack import Pack
from agentsft.batch.split import chains
from agentsft.train.attention import FLEX_BLOCK, NAME, Attention
from agentsft.types import TokenTree


@dataclass(frozen=True)
class Layout:
    """How trees reach the model.

    `split`: one sequence per path instead of trees. `rows`: sequences are padded rows, since the model takes no mask.
    `alone`: one sequence in each forward pass. `attention` works in `attention.mode`. `notes` say what was given up
    and why, one line each.
    """

    attention: Attention
    split: bool
    rows: bool = False
    alone: bool = False
    notes: tuple[str, ...] = ()


def choose_layout(
    model: Any, decoder: Callable, longest: int, device: torch.device, layout: str, requested: str | None, compiled: bool
) -> Layout:
    """The fastest layout that this model computes exactly; sets the model's attention implementation accordingly.

    `model` is the Transformers model (without PEFT's wrapper), `decoder` its decoder, `longest` the tokens of the
    longest path, `layout` and `requested` the settings of that name and of attn_implementation.
    """
    own = model.config._attn_implementation
    notes: list[str] = []
    reason = mask_obstacle(model.config, longest)
    if requested not in (None, "flex_attention", "sdpa", "eager"):
        reason = f"attn_implementation {requested} takes no mask"
    if not reason:
        for mode in _modes(model, device, own if requested is None else requested, compiled):
            attention = Attention(mode, device)
            model.set_attn_implementation("eager" if mode == "eager" else NAME)
            fault = probe(model, decoder, attention, own, device)
            if not fault:
                return Layout(attention, split=layout == "split", notes=tuple(notes))
            notes.append(f"Attention {mode} is not used: {fault}.")
        reason = "no attention of this model computes token trees exactly"
    notes.append(f"Layout: split, one padded row per path, since {reason}.")
    model.set_attn_implementation(own)
    attention = Attention("rows", device)
    if probe(model, decoder, attention, own, device) and not probe(model, decoder, attention, "eager", device):
        model.set_attn_implementation("eager")
        notes.append(f"Attention: eager, since {own} does not run with this model.")
    return Layout(attention, split=True, rows=True, alone=rope_depends_on_length(model.config, longest), notes=tuple(notes))


def _modes(model: Any, device: torch.device, implementation: str, compiled: bool) -> list[str]:
    """Ways of attention to try, the fastest first."""
    if implementation == "eager":
        return ["eager"]
    sdpa = ["mask" if compiled else "sdpa"] + (["eager"] if device.type == "cpu" else [])
    dropout = getattr(model.config.get_text_config(), "attention_dropout", 0.0)
    flex = device.type == "cuda" and getattr(model, "_supports_flex_attn", False) and not dropout
    return ["flex", *sdpa] if flex and implementation != "sdpa" or implementation == "flex_attention" else sdpa


def mask_obstacle(config: Any, longest: int) -> str:
    """Why a model of this configuration cannot take a mask of our own, or an empty string.

    A window that is at least as long as the longest path hides nothing, so it is no obstacle.
    """
    text = config.get_text_config()
    types = set(getattr(text, "layer_types", None) or ())
    if not types and getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        types = {"sliding_attention"}
    windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    for kind in sorted(types - {"full_attention"}):
        window = getattr(text, windows[kind], None) if kind in windows else 0
        if window is not None and window < longest:
            return f"its layers use {kind.replace('_', ' ')}" + (f" over {window} tokens" if window else "")
    if rope_depends_on_length(config, longest):
        return "its rotary embedding depends on the length of the sequence"
    return ""


def rope_depends_on_length(config: Any, longest: int) -> bool:
    """Whether the angle of a position depends on what else is in the batch (dynamic and longrope scaling)."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type"))
    trained = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
    return kind in ("dynamic", "longrope") and longest > (trained or text.max_position_embeddings)


def probe(model: Any, decoder: Callable, attention: Attention, own: str, device: torch.device) -> str:
    """Why a small forest's hidden states differ from those of its paths, each run alone by Transformers, or ''.

    `own` is the implementation that Transformers would use.
    """
    trees = _forest(model.config.get_text_config().vocab_size)
    rows = attention.mode == "rows"
    pieces = [piece for tree in trees for piece in chains(tree)]
    training, implementation = model.training, model.config._attn_implementation
    model.eval()
    try:
        with torch.no_grad():
            packed = [_hidden(decoder, Pack(tuple(pieces if rows else trees), rows), attention, device)]
            model.set_attn_implementation(own)
            plain = Attention("rows", device)
            alone = [_hidden(decoder, Pack((piece,), rows=True), plain, device) for piece in pieces]
    except Exception as error:
        return f"it fails with {type(error).__name__} ({' '.join(str(error).split())[:200]})"
    finally:
        model.set_attn_implementation(implementation)
        model.train(training)
    ours, theirs = ({t: h for d in part for t, h in d.items()} for part in (packed, alone))
    difference = torch.stack([ours[t] - theirs[t] for t in theirs]).abs().max()
    scale = torch.stack(list(theirs.values())).abs().max()
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 5e-2
    if difference <= tolerance * scale:
        return ""
    return f"a small token tree and its paths differ by {float(difference / scale):.1e} of the largest hidden state"


def _hidden(decoder: Callable, pack: Pack, attention: Attention, device: torch.device) -> dict[int, torch.Tensor]:
    """The hidden state of every target of the pack, by the target's token."""
    batch = collate(pack, FLEX_BLOCK if attention.mode == "flex" else 1).to(device)
    hidden = decode(decoder, batch, attention).flatten(0, 1).float()
    return {int(t): hidden[i] for t, i in zip(batch.token.tolist(), batch.rows[batch.row].tolist(), strict=True)}


def decode(decoder: Callable, batch: Any, attention: Attention) -> torch.Tensor:
    """The decoder's last hidden state [b, n, d]. Rows keep the positions that the model gives them by itself."""
    positions = {} if batch.subtree_end is None else {"position_ids": batch.position_ids}
    output = decoder(input_ids=batch.input_ids, use_cache=False, **positions, **attention.arguments(batch))
    return output.last_hidden_state


def _forest(vocab_size: int) -> list[TokenTree]:
    """A tree that branches twice and a chain; every token is a target, told apart by `token`."""
    parents = [[-1, 0, 1, 2, 3, 4, 5, 3, 7, 8, 1, 10, 11], [-1, 0, 1, 2, 3, 4, 5]]
    random, trees, first = np.random.default_rng(0), [], 0
    for parent in parents:
        n = len(parent)
        depth, end = np.zeros(n, np.int32), np.arange(1, n + 1, dtype=np.int32)
        for node in range(1, n):
            depth[node] = depth[parent[node]] + 1
        for node in range(n - 1, 0, -1):
            end[parent[node]] = max(end[parent[node]], end[node])
        ids = random.integers(0, vocab_size, n).astype(np.int32)
        token = np.arange(first, first + n, dtype=np.int32)
        trees.append(
            TokenTree(ids, depth, end, np.arange(n, dtype=np.int32), token, np.ones(n, np.float32), np.zeros(n, np.int8))
        )
        first += n
    return trees
