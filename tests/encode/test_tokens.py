"""Chunks are a matter of speed: ids do not depend on what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.encode import tokens
from agentsft.encode.tokens import ChunkEncoder

PIECES = st.sampled_from(["<|im_start|>", "<|im_end|>", "<|im_sta", "\n", "user\n", " a b", "ä", "<think>", "12", ""])


@pytest.mark.parametrize("most", [0, 30, 10**6])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=1, max_size=6))
def test_ids_are_those_of_the_whole_text_whatever_is_kept(qwen_tokenizer: Any, most: int, texts: list[str]) -> None:
    encoder = ChunkEncoder(qwen_tokenizer)
    assert encoder.chunked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_CACHED_CHARACTERS", most)
        before, chunks = "", []
        for text in [*texts, *texts]:
            chunks = encoder.chunks_after(before, chunks, text)
            before = text
            assert "".join(chunks) == text
            assert encoder.ids_of(chunks).tolist() == qwen_tokenizer(text, add_special_tokens=False)["input_ids"]
