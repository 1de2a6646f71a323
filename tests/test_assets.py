from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import assets
from tests.families import BY_TEMPLATE, NO_TEXT_CHAT, TEXT_TEMPLATES

CONTROL = re.compile(r"<\|\w+\|?>|<\w+\|>|<｜[^｜]+｜>|<(?:start|end)_of_\w+>|\[gMASK\]")


def test_every_template_has_a_family(templates: dict[str, str]) -> None:
    assert set(templates) == set(BY_TEMPLATE)
    assert len(TEXT_TEMPLATES) == len(templates) - 3


@pytest.mark.parametrize("name", sorted(BY_TEMPLATE))
def test_what_a_template_writes_as_control_tokens_are_tokens(name: str, tokenizer_for: Callable[[str], Any]) -> None:
    tokenizer = tokenizer_for(name)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    assert added == set(BY_TEMPLATE[name].special) | set(BY_TEMPLATE[name].added)
    assert set(CONTROL.findall(tokenizer.chat_template)) - {"<|final|>"} <= added  # <|final|>: in a comment of gpt-oss
    assert {tokenizer.eos_token, *BY_TEMPLATE[name].stops} <= added


@pytest.mark.parametrize("name", sorted(BY_TEMPLATE))
def test_text_templates_and_only_they_serve_plain_text(name: str, tokenizer_for: Callable[[str], Any]) -> None:
    messages = [{"role": "user", "content": "Quertz"}]
    prompt = tokenizer_for(name).apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ("Quertz" in prompt) is (name not in NO_TEXT_CHAT)


# What is a letter differs between versions of Unicode, so characters that are new are left out.
KNOWN = st.characters(exclude_categories=("Cs", "Cn"))


@settings(max_examples=100, deadline=None)
@given(text=st.text(KNOWN) | st.text(alphabet=st.sampled_from("aet the'sS 12\n\t.,()你好éÄ\u0301🙂"), max_size=60))
def test_the_qwen_tokenizer_merges_by_rank(text: str) -> None:
    import regex

    tokenizer = assets.qwen_tokenizer()
    # Added tokens are found before anything is merged; Hypothesis takes some of them from the sources as examples.
    assume(not any(token.content in text for token in tokenizer.added_tokens_decoder.values()))
    ranks = assets.qwen_ranks()
    pieces = regex.findall(assets.QWEN_PIECES, unicodedata.normalize("NFC", text))
    by_rank = [ranks[part] for piece in pieces for part in assets.merged(piece.encode(), ranks, len(ranks))]
    assert tokenizer.encode(text) == by_rank
