"""Greedy answers to many prompts: batches of like length, padded on the left, with a KV cache."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentsft.errors import UserError
from agentsft.train.memory import out_of_memory


@dataclass(frozen=True, slots=True)
class Batch:
    """The prompts, by their numbers, of one call of generate, and how many tokens each may take at most."""

    numbers: tuple[int, ...]
    new_tokens: int


def plan_batches(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int, longest: int | None) -> list[Batch]:
    """All prompts of these `lengths` in batches of about `batch_tokens`, padding and answers included; longest first.

    No answer may exceed `max_new_tokens`, nor the context `longest`. The plan depends on the arguments alone, so that a
    resumed evaluation computes each answer beside the very same others.
    """

    def room(length: int) -> int:
        return max(1, min(max_new_tokens, longest - length)) if longest is not None else max_new_tokens

    batches: list[Batch] = []
    numbers: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if numbers:
            first = lengths[numbers[0]]
            full = (len(numbers) + 1) * (first + room(first)) > batch_tokens
            if full or room(lengths[number]) != room(first):
                batches.append(Batch(tuple(numbers), room(first)))
                numbers = []
        numbers.append(number)
    if numbers:
        batches.append(Batch(tuple(numbers), room(lengths[numbers[0]])))
    return batches


class Generator:
    """Greedy sampling with one model, up to the first of `stops` (token ids)."""

    def __init__(self, model: Any, stops: Sequence[int], pad: int | None) -> None:
        self.model = model
        self.stops = frozenset(stops)
        self._pad = pad if pad is not None else stops[0]
        self.halved = 0

    def answers(self, prompts: Sequence[np.ndarray], new_tokens: int) -> list[tuple[list[int], bool]]:
        """For each prompt (int32[n]) the new ids without the stop token, and whether one came within `new_tokens`.

        Where memory runs out the batch is halved (`halved` counts it). Raises UserError for a single prompt too long.
        """
        try:
            rows = self._generate(prompts, new_tokens)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            rows = None
        if rows is not None:
            return [self._cut(row) for row in rows]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(prompts) == 1:
            raise UserError(
                f"out of memory on one prompt of {len(prompts[0])} tokens; lower --max-new-tokens or --max-length."
            )
        self.halved += 1
        half = len(prompts) // 2
        return self.answers(prompts[:half], new_tokens) + self.answers(prompts[half:], new_tokens)

    @torch.no_grad()
    def _generate(self, prompts: Sequence[np.ndarray], new_tokens: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = np.full((len(prompts), width), self._pad, np.int64)
        mask = np.zeros((len(prompts), width), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        device = self.model.device
        with _greedy(self.model, sorted(self.stops), self._pad, new_tokens):
            out = self.model.generate(
                input_ids=torch.from_numpy(ids).to(device), attention_mask=torch.from_numpy(mask).to(device)
            )
        return out[:, width:].tolist()

    def _cut(self, row: list[int]) -> tuple[list[int], bool]:
        end = next((k for k, token in enumerate(row) if token in self.stops), None)
        return (row, False) if end is None else (row[:end], True)


@contextmanager
def _greedy(model: Any, stops: list[int], pad: int, new_tokens: int) -> Iterator[None]:
    """The model samples greedily meanwhile: a model's own generation config may penalise repetition, or more."""
    from transformers import GenerationConfig

    from agentsft.train.module import base_model

    inner = base_model(model)
    own = inner.generation_config
    wanted = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=new_tokens, eos_token_id=stops, pad_token_id=pad, use_cache=True
    )
    inner.generation_config = wanted
    outer = getattr(model, "generation_config", None) if model is not inner else None
    if outer is not None:  # PEFT's wrapper sets its own on the model for each call
        model.generation_config = wanted
    try:
        yield
    finally:
        inner.generation_config = own
        if outer is not None:
            model.generation_config = outer
