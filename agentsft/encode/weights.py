"""Weights from characters to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from agentsft.encode.tokens import Encoded
from agentsft.types import LABELS, Span

_LABEL_IDS = {label: number for number, label in enumerate(LABELS)}


def token_weights(
    encoded: Sequence[Encoded], responses: Sequence[tuple[int, Sequence[Span], float]]
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """For each response its tokens' weight float32[k] and label int8[k], and how many tokens straddle two weights.

    `responses` are (characters, spans, weight of the stop token) each: the spans partition the response's characters,
    and what lies behind is the stop token. A token that covers characters of several weights takes the largest, with
    the label of the first span that has it. All responses are done at once, as one text after the other.
    """
    if not encoded:
        return []
    borders: list[int] = []
    weights: list[float] = []
    labels: list[int] = []
    firsts, bases, at = [], [], 0
    for one, (characters, spans, suffix_weight) in zip(encoded, responses, strict=True):
        firsts.append(len(borders))
        bases.append(at)
        borders += [at + span.start for span in spans]
        weights += [span.weight for span in spans]
        labels += [_LABEL_IDS[span.label] for span in spans]
        borders.append(at + characters)
        weights.append(suffix_weight)
        labels.append(_LABEL_IDS["suffix"])
        at += max(characters, int(one.end[-1]) if len(one.end) else 0) + 1

    counts = [len(one.ids) for one in encoded]
    base, lowest = np.repeat(bases, counts), np.repeat(firsts, counts)
    start = np.concatenate([one.start for one in encoded]) + base
    end = np.concatenate([one.end for one in encoded]) + base
    first = np.maximum(np.searchsorted(borders, start, side="right") - 1, lowest)
    last = np.maximum(np.searchsorted(borders, np.maximum(end - 1, start), side="right") - 1, lowest)
    weight_of, label_of = np.array(weights, dtype=np.float32), np.array(labels, dtype=np.int8)
    weight, label = weight_of[first], label_of[first]
    straddling = np.zeros(len(weight), dtype=bool)
    for k in np.flatnonzero(last > first):
        covered = weight_of[first[k] : last[k] + 1]
        straddling[k] = covered.min() != covered.max()
        best = int(covered.argmax())
        weight[k], label[k] = covered[best], label_of[first[k] + best]
    some = bool(straddling.any())
    ends = list(accumulate(counts))
    return [
        (weight[b - n : b], label[b - n : b], int(straddling[b - n : b].sum()) if some else 0)
        for n, b in zip(counts, ends, strict=True)
    ]
