"""Choosing between token trees and padded paths: by the model's configuration, then by a probe of the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentsft.train.attention import NAME, Attention
from agentsft.train.probe import attention_fault


@dataclass(frozen=True)
class Layout:
    """How trees reach the model.

    `split`: one sequence per path instead of trees. `rows`: the sequences are padded rows, for a model that takes no
    mask. `alone`: one sequence in each forward pass. `notes` say what was given up and why, one line each.
    """

    attention: Attention
    split: bool
    rows: bool = False
    alone: bool = False
    notes: tuple[str, ...] = ()


def choose_layout(model: Any, longest: int, split: bool, requested: str | None, compiled: bool) -> Layout:
    """The fastest layout that this model computes exactly; sets the model's attention implementation accordingly.

    `model` is the Transformers model on its device, without PEFT's wrapper, `longest` the tokens of the longest
    path, `split` and `requested` what the settings layout and attn_implementation ask for.
    """
    own = model.config._attn_implementation
    notes: list[str] = []
    if own != "eager" and attention_fault(model, Attention("rows", model.device), own):
        notes.append(f"Attention: eager, since {own} does not run with this model.")
        own = "eager"
        model.set_attn_implementation(own)
    reason = mask_obstacle(model.config, longest)
    if requested not in (None, "flex_attention", "sdpa", "eager"):
        reason = f"attn_implementation {requested} takes no mask of token trees"
    if not reason:
        for mode in _modes(model, own, requested, compiled):
            attention = Attention(mode, model.device)
            model.set_attn_implementation("eager" if mode == "eager" else NAME)
            fault = attention_fault(model, attention, own)
            if not fault:
                return Layout(attention, split, notes=tuple(notes))
            notes.append(f"Attention: {mode} is not used, since {fault}.")
        reason = "no attention computes token trees exactly with this model"
    notes.append(f"Layout: split, one padded row per path, since {reason}.")
    model.set_attn_implementation(own)
    alone = rope_depends_on_length(model.config, longest)
    return Layout(Attention("rows", model.device), split=True, rows=True, alone=alone, notes=tuple(notes))


def _modes(model: Any, own: str, requested: str | None, compiled: bool) -> list[str]:
    """Ways of attention to try, the fastest first."""
    modes, cuda = [], model.device.type == "cuda"
    dropout = getattr(model.config.get_text_config(), "attention_dropout", 0.0)  # flex attention has none
    if cuda and model._supports_flex_attn and not dropout and requested in (None, "flex_attention"):
        modes.append("flex")
    if "eager" not in (own, requested):
        modes.append("mask" if compiled else "sdpa")
    if requested == "eager" or not cuda:
        modes.append("eager")
    return modes


def mask_obstacle(config: Any, longest: int) -> str:
    """Why a model of this configuration cannot take a mask of our own, or an empty string.

    A window at least as long as the longest path hides nothing, so it is no obstacle.
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
