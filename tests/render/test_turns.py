"""Where a response ends, and which texts hold control tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentsft.errors import RowError
from agentsft.render.probe import probe
from agentsft.render.template import Template
from agentsft.render.turns import Renderer
from agentsft.types import Conversation, Message, ToolCall


@pytest.fixture(scope="module")
def renderer(qwen_tokenizer: Any) -> Renderer:
    template = Template(qwen_tokenizer)
    return Renderer(template, probe(template, qwen_tokenizer))


PIECES = st.lists(st.sampled_from(["<|im_end|>", "<|endoftext|>", "<|im_", "end|>", " ", "\n", "a"]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(PIECES.map("".join))
def test_the_stop_tokens_that_end_a_text_are_found_from_the_first_one_on(renderer: Renderer, text: str) -> None:
    plain = re.search(r"(?:(?:<\|im_end\|>)\s*)+\Z", text)
    found = renderer._tail.search(text)
    assert renderer.traits.stop_tokens == ("<|im_end|>",)
    assert (found and found.span()) == (plain and plain.span())


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES.map("".join), min_size=5, max_size=5))
@example(["a", "<|im_", "end|>", "", ""])
def test_a_row_is_refused_where_one_text_alone_holds_a_control_token(renderer: Renderer, texts: list[str]) -> None:
    user, answer, name, argument, tool = texts
    calls = (ToolCall(name, {"a": [argument]}),)
    conversation = Conversation(
        (Message("user", user), Message("assistant", answer, tool_calls=calls)),
        ({"type": "function", "function": {"name": tool}},),
    )
    if any(token in text for token in renderer.traits.delimiters for text in texts):
        with pytest.raises(RowError) as refused:
            renderer._check_control_tokens(conversation)
        assert refused.value.reason == "control_token"
    else:
        renderer._check_control_tokens(conversation)
