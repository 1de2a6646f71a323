"""Chunks are a matter of speed: ids do not depend on what is remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.encode import tokens
from agentsft.encode.bytelevel import TokenBytes
from agentsft.encode.tokens import ChunkEncoder

PIECES = st.sampled_from(["<|im_start|>", "<|im_end|>", "<|im_sta", "\n", "user\n", " a b", "ä", "<think>", "12", ""])


@pytest.fixture(scope="module")
def table(qwen_tokenizer: Any) -> TokenBytes:
    """Takes a fifth of a second to make, and is the same for all examples."""
    table = TokenBytes.of(qwen_tokenizer.backend_tokenizer)
    assert table is not None
    return table


@pytest.mark.parametrize("most", [0, 30, 10**6])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=1, max_size=6))
def test_ids_are_those_of_the_whole_text_whatever_is_kept(
    qwen_tokenizer: Any, table: TokenBytes, most: int, texts: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_CACHED_CHARACTERS", most)
        patch.setattr(TokenBytes, "of", lambda _: table)
        encoder = ChunkEncoder(qwen_tokenizer)
        assert encoder.chunked
        before, chunks, cuts = "", [], []
        for text in [*texts, *texts]:
            kept, own = encoder.chunks_after(before, chunks, text)
            before, chunks = text, [*chunks[:kept], *own]
            cuts.append((kept, own))
            assert "".join(chunks) == text
            assert encoder.ids_of(chunks).tolist() == qwen_tokenizer(text, add_special_tokens=False)["input_ids"]
        for text, ids in zip([*texts, *texts], encoder.ids_in_turn(cuts), strict=True):
            assert ids.dtype == np.int32
            assert ids.tolist() == qwen_tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=1, max_size=6))
def test_offsets_of_several_texts_are_those_that_the_tokenizer_gives_for_each(
    qwen_tokenizer: Any, table: TokenBytes, texts: list[str]
) -> None:
    encoded = [qwen_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True) for text in texts]
    found = table.offsets(texts, [np.array(one["input_ids"], dtype=np.int32) for one in encoded])
    for one, offsets in zip(encoded, found, strict=True):
        assert offsets is not None
        assert list(zip(*(part.tolist() for part in offsets), strict=True)) == one["offset_mapping"]
