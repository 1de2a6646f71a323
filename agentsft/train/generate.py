"""Greedy answers in the served context, to see what a model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompt: str, stop_tokens: Sequence[str], max_new_tokens: int = 256) -> str:
    """What `model` samples greedily after `prompt`, up to the first of `stop_tokens`, which is left out."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    stops = tokenizer.convert_tokens_to_ids(list(stop_tokens))
    model.eval()
    out = model.generate(
        **ids,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
    )
    new = out[0, ids["input_ids"].shape[1] :].tolist()
    cut = next((k for k, number in enumerate(new) if number in set(stops)), len(new))
    return tokenizer.decode(new[:cut])
