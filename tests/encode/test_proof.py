"""What prepares a row is broken on purpose, in every way that would train other tokens: the row is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.encode import prepare
from agentsft.encode.prepare import Preparer
from agentsft.encode.proof import span_fault, tree_fault
from agentsft.encode.tree import TurnIds, build_tree
from agentsft.types import Conversation, Example, Row, Span, TokenTree, Turn
from agentsft.weigh.loss_scale import LossScale, parse_loss_scale
from tests import assets
from tests.conversations import KINDS, answer, user

SEVERAL_TURNS = KINDS["several user turns"]


def one(preparer: Preparer, conversation: Any = SEVERAL_TURNS) -> Example:
    (example,) = preparer.prepare([Row(0, "f.jsonl:1", conversation)])
    return example


@cache
def preparer_of(model: str, loss_scale: str = "default") -> Preparer:
    """A preparer of SmolLM2, whose template makes chains, or of Qwen3, whose template makes branches."""
    return Preparer(assets.smollm2_tokenizer() if model == "SmolLM2" else assets.qwen_tokenizer(), loss_scale)


def refused(example: Example, reason: str) -> bool:
    return example.tree is None and example.refusal is not None and example.refusal.reason == reason


@pytest.mark.parametrize("base", ["default", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_order_are_proven(kind: str, base: str) -> None:
    example = one(preparer_of("Qwen3", f"{base}+react"), KINDS[kind])
    assert example.refusal is None
    assert example.tree is not None
    assert len(example.tree.source)


def _strategy(spoil: Callable[[tuple[Span, ...], str], tuple[Span, ...]]) -> LossScale:
    class Spoiled(LossScale):
        def spans(self, response: str, query: str | None) -> tuple[Span, ...]:
            return spoil(LossScale.spans(self, response, query), response)

    plain = parse_loss_scale("react")
    return Spoiled(plain.name, plain.base, plain.strategies)


SPANS: dict[str, Callable[[tuple[Span, ...], str], tuple[Span, ...]]] = {
    "none at all": lambda spans, _: (),
    "one that ends early": lambda spans, _: (*spans[:-1], replace(spans[-1], end=spans[-1].end - 1)),
    "one that reaches past the response": lambda spans, _: (*spans[:-1], replace(spans[-1], end=spans[-1].end + 1)),
    "one that starts in the prompt": lambda spans, _: (replace(spans[0], start=-5), *spans[1:]),
    "a gap": lambda spans, text: (Span(0, 1, 1.0, "text"), Span(2, len(text), 1.0, "text")),
    "an overlap": lambda spans, text: (Span(0, 2, 1.0, "text"), Span(1, len(text), 1.0, "text")),
    "twice the same": lambda spans, _: (*spans, *spans),
    "an empty one": lambda spans, _: (Span(0, 0, 1.0, "text"), *spans),
    "a negative weight": lambda spans, _: tuple(replace(span, weight=-1.0) for span in spans),
    "a weight that is no number": lambda spans, _: tuple(replace(span, weight=float("nan")) for span in spans),
    "an infinite weight": lambda spans, _: tuple(replace(span, weight=float("inf")) for span in spans),
    "an unknown label": lambda spans, _: tuple(replace(span, label="prompt_text") for span in spans),
}


@pytest.mark.parametrize("name", SPANS)
def test_a_strategy_whose_spans_are_no_partition_is_refused(name: str) -> None:
    example = one(Preparer(assets.smollm2_tokenizer(), loss_scale=_strategy(SPANS[name])))
    assert refused(example, "unproven")
    assert example.refusal is not None
    assert example.refusal.message == 1
    assert "\n" not in example.refusal.detail


@given(st.lists(st.integers(0, 6), max_size=5), st.integers(0, 6))
def test_only_partitions_are_proven(ends: list[int], length: int) -> None:
    starts = [0, *ends[:-1]]
    spans = tuple(Span(start, end, 1.0, "text") for start, end in zip(starts, ends, strict=False))
    partition = sorted(set(ends)) == ends and 0 not in ends and (ends[-1] if ends else 0) == length
    turn = Turn(1, "p", "x" * length, "</s>", spans, 1.0)
    assert (span_fault(turn) is None) == partition


class Backend:
    """A tokenizer's backend that gives other ids than it should, for responses alone."""

    def __init__(self, backend: Any, spoil: Callable[[list[int]], list[int]]) -> None:
        self._backend, self._spoil = backend, spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _spoiled(self, encodings: list[Any]) -> list[Any]:
        class Encoding:
            def __init__(self, encoding: Any, ids: list[int]) -> None:
                self.ids = ids
                self.offsets = [*encoding.offsets, encoding.offsets[-1]][: len(ids)]

        return [Encoding(encoding, self._spoil(list(encoding.ids))) for encoding in encodings]

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
        return self._spoiled(self._backend.encode_batch(texts, add_special_tokens=add_special_tokens))


IDS: dict[str, Callable[[list[int]], list[int]]] = {
    "a token is dropped": lambda ids: ids[:-2] + ids[-1:],
    "a token is another": lambda ids: [ids[0] + 1, *ids[1:]],
    "a token is doubled": lambda ids: [*ids[:-1], ids[-2], ids[-1]],
    "two tokens change places": lambda ids: [ids[1], ids[0], *ids[2:]],
    "the stop token is missing": lambda ids: ids[:-1],
    "the stop token is another special one": lambda ids: [*ids[:-1], ids[-1] - 1],
}


@pytest.mark.parametrize("byte_level", [True, False])
@pytest.mark.parametrize("name", IDS)
def test_a_tokenizer_whose_ids_are_another_text_is_refused(
    name: str, byte_level: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparer = preparer_of("SmolLM2")
    assert one(preparer).refusal is None
    spoiled = copy.copy(preparer.encoder)
    spoiled._backend = Backend(preparer.encoder._backend, IDS[name])
    if not byte_level:
        spoiled._bytes = None
    good = preparer.encoder._response_ids

    def bad(texts: list[str], chunks: list[list[str]]) -> list[np.ndarray]:
        return [np.array(IDS[name](ids.tolist()), dtype=np.int32) for ids in good(texts, chunks)]

    monkeypatch.setattr(spoiled, "_response_ids", bad)
    monkeypatch.setattr(preparer.encoder, "encode_responses", spoiled.encode_responses)
    example = one(preparer)
    assert refused(example, "content_altered")
    assert example.refusal is not None
    assert example.refusal.message == 1


@pytest.mark.parametrize(
    ("normalizer", "text", "proven"),
    [
        ("NFC", "cafe\u0301", True),  # what Unicode holds equal is the same text
        ("NFKC", "\ufb01ne", False),
        ("Lowercase", "It is FOUR.", False),
        ("StripAccents", "caf\u00e9", False),
    ],
)
def test_a_normalizer_may_compose_characters_and_change_nothing_else(normalizer: str, text: str, proven: bool) -> None:
    from tokenizers import Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    plain = assets.smollm2_tokenizer()
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    steps = [normalizers.NFD()] if normalizer == "StripAccents" else []
    backend.normalizer = normalizers.Sequence([*steps, getattr(normalizers, normalizer)()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=plain.chat_template, eos_token=plain.eos_token
    )
    example = one(Preparer(tokenizer), Conversation((user("Hi"), answer(text))))
    assert (example.refusal is None) == proven
    assert proven or refused(example, "content_altered")


TREES: dict[str, Callable[[TokenTree], TokenTree]] = {
    "a target in the prompt": lambda t: replace(
        t,
        source=np.append(t.source, np.int32(0)),
        token=np.append(t.token, t.input_ids[1]),
        weight=np.append(t.weight, np.float32(1)),
        label=np.append(t.label, np.int8(0)),
    ),
    "all targets one to the left": lambda t: replace(t, source=t.source - 1),
    "all targets one to the right": lambda t: replace(t, source=t.source + 1),
    "another token": lambda t: replace(t, token=np.roll(t.token, 1)),
    "another weight": lambda t: replace(t, weight=t.weight * 2),
    "a target is missing": lambda t: replace(
        t, source=t.source[1:], token=t.token[1:], weight=t.weight[1:], label=t.label[1:]
    ),
    "a response's token is another": lambda t: replace(
        t, input_ids=np.where(np.arange(len(t)) == t.source[0] + 1, t.input_ids + 1, t.input_ids)
    ),
    "a prompt's token is another": lambda t: replace(
        t, input_ids=np.where(np.arange(len(t)) == 1, t.input_ids + 1, t.input_ids)
    ),
    "branches see each other": lambda t: replace(
        t, subtree_end=np.full(len(t), len(t), np.int32) if not t.is_chain else t.subtree_end - 1
    ),
}


@pytest.mark.parametrize("base", ["default", "all"])
@pytest.mark.parametrize("shape", ["chain", "branched"])
@pytest.mark.parametrize("name", TREES)
def test_a_tree_that_trains_other_tokens_than_the_responses_is_refused(
    name: str, shape: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparer = preparer_of("SmolLM2" if shape == "chain" else "Qwen3", base)
    sound = one(preparer)
    assert sound.tree is not None
    assert sound.tree.is_chain == (shape == "chain")
    monkeypatch.setattr(prepare, "build_tree", lambda *args, **kwargs: TREES[name](build_tree(*args, **kwargs)))
    assert refused(one(preparer), "unproven")


IDS_OF_TURN = st.lists(st.integers(0, 2), min_size=1, max_size=4)


@settings(max_examples=200)
@given(st.lists(st.tuples(IDS_OF_TURN, IDS_OF_TURN, st.integers(0, 2)), min_size=1, max_size=4), st.booleans())
def test_every_tree_of_any_turns_is_proven(turns: list[tuple[list[int], list[int], int]], prompts: bool) -> None:
    made = [
        TurnIds(
            np.array(prompt, np.int32),
            np.array(response, np.int32),
            np.full(len(response), weight, np.float32),
            np.zeros(len(response), np.int8),
        )
        for prompt, response, weight in turns
    ]
    assert tree_fault(build_tree(made, prompts), made, prompts) is None


def test_a_turn_without_prompt_is_refused_for_nothing_predicts_its_first_token() -> None:
    empty, ids = np.empty(0, np.int32), np.array([1, 2], np.int32)
    turn = TurnIds(empty, ids, np.ones(2, np.float32), np.zeros(2, np.int8))
    fault = tree_fault(build_tree([turn]), [turn])
    assert fault is not None
    assert "no token that could predict" in fault


def test_prompts_are_trained_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "build_tree", lambda turns, train_prompts: build_tree(turns, not train_prompts))
    for model in ("SmolLM2", "Qwen3"):
        for base in ("default", "all"):
            assert refused(one(preparer_of(model, base)), "unproven")
