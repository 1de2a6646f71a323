"""Batches change no answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.evaluate.generate import Generator, plan_batches
from agentsft.train.generate import generate

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


@settings(deadline=None)
@given(lengths=LENGTHS, new=st.integers(1, 100), budget=st.integers(1, 3000), longest=st.none() | st.integers(300, 500))
def test_every_prompt_is_in_one_batch_that_fits(lengths: list[int], new: int, budget: int, longest: int | None) -> None:
    batches = plan_batches(lengths, new, budget, longest)
    assert Counter(n for batch in batches for n in batch.numbers) == Counter(range(len(lengths)))
    assert [lengths[n] for batch in batches for n in batch.numbers] == sorted(lengths, reverse=True)
    for batch in batches:
        width = lengths[batch.numbers[0]]
        assert len(batch.numbers) == 1 or len(batch.numbers) * (width + batch.new_tokens) <= budget
        for number in batch.numbers:
            room = new if longest is None else max(1, min(new, longest - lengths[number]))
            assert batch.new_tokens == room


def test_no_batch_could_take_the_next_ones_first_prompt_too() -> None:
    batches = plan_batches([10] * 10, 10, 100, None)
    assert [len(batch.numbers) for batch in batches] == [5, 5]


PROMPTS = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is the capital of France? Answer in one word.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n",
]


def test_a_batch_answers_as_single_prompts_do_on_a_real_model(smollm2: Path, smollm2_tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    before = model.generation_config.to_dict()
    stops = smollm2_tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    ids = [np.array(smollm2_tokenizer(p, add_special_tokens=False)["input_ids"], np.int32) for p in PROMPTS]
    together = Generator(model, stops, smollm2_tokenizer.pad_token_id).answers(ids, 8)
    assert model.generation_config.to_dict() == before
    for prompt, (new, stopped) in zip(PROMPTS, together, strict=True):
        text = generate(model, smollm2_tokenizer, prompt, ["<|im_end|>"], 8)
        assert smollm2_tokenizer.decode(new) == text
        assert stopped == (len(new) < 8)
    assert len({tuple(new) for new, _ in together}) == len(PROMPTS)
    assert any(stopped for _, stopped in together)


class _Short:
    """A model without memory for more than `most` prompts; it answers each with its first token, then stops."""

    device = torch.device("cpu")

    def __init__(self, most: int) -> None:
        from transformers import GenerationConfig

        self.most = most
        self.generation_config = GenerationConfig()

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        first = input_ids.gather(1, attention_mask.argmax(1, keepdim=True))
        return torch.cat([input_ids, first, torch.full_like(first, 2)], dim=1)


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does() -> None:
    generator = Generator(_Short(2), [2], None)
    prompts = [np.array([number] * number, np.int32) for number in (9, 8, 7, 6, 5)]
    assert generator.answers(prompts, 4) == [([number], True) for number in (9, 8, 7, 6, 5)]
    assert generator.halved == 2


def test_a_single_prompt_too_long_for_memory_is_an_error_that_names_the_settings() -> None:
    with pytest.raises(ValueError, match="out of memory on one prompt of 3 tokens; lower --max-new-tokens"):
        Generator(_Short(0), [2], None).answers([np.array([4, 4, 4], np.int32)], 4)
