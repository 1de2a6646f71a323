"""Weights from characters to tokens, against a character-by-character reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentsft.encode.tokens import Encoded
from agentsft.encode.weights import token_weights
from agentsft.types import LABELS, Span


@st.composite
def responses(draw: st.DrawFn) -> tuple[Encoded, int, list[Span], float]:
    """Random spans over a response, random tokens over response and stop token, some sharing a character."""
    sizes = draw(st.lists(st.integers(1, 5), max_size=5))
    spans, at = [], 0
    for size in sizes:
        label = draw(st.sampled_from(LABELS[:8]))
        spans.append(Span(at, at + size, draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])), label))
        at += size
    total = at + draw(st.integers(1, 6))
    tokens, start = [], 0
    while start < total:
        end = min(start + draw(st.integers(1, 4)), total)
        tokens += [(start, end)] * draw(st.integers(1, 2))
        start = end
    start, end = (np.array(column, np.int32) for column in zip(*tokens, strict=True))
    return Encoded(np.arange(len(tokens), dtype=np.int32), start, end), at, spans, draw(st.sampled_from([0.0, 1.0]))


Case = tuple[Encoded, int, list[Span], float]


@given(st.lists(responses(), max_size=4))
def test_a_token_takes_the_largest_weight_of_its_characters(cases: list[Case]) -> None:
    found = token_weights([encoded for encoded, *_ in cases], [(n, spans, weight) for _, n, spans, weight in cases])
    assert len(found) == len(cases)
    for (encoded, characters, spans, suffix_weight), (weight, label, straddling) in zip(cases, found, strict=True):
        by_character = [(span.weight, span.label) for span in spans for _ in range(span.start, span.end)]
        by_character += [(suffix_weight, "suffix")] * (int(encoded.end[-1]) - characters)
        crossing = 0
        for k in range(len(encoded.ids)):
            covered = by_character[encoded.start[k] : encoded.end[k]]
            best = max(w for w, _ in covered)
            assert weight[k] == best
            assert LABELS[label[k]] == next(name for w, name in covered if w == best)
            crossing += len({w for w, _ in covered}) > 1
        assert straddling == crossing
        assert len(weight) == len(label) == len(encoded.ids)
