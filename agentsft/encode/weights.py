"""Weights from characters to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentsft.encode.tokens import Encoded
from agentsft.types import LABELS, Span

_LABEL_IDS = {label: number for number, label in enumerate(LABELS)}


def token_weights(
    encoded: Encoded, response_characters: int, spans: Sequence[Span], suffix_weight: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Per token its weight float32[k] and label int8[k], and how many tokens straddle two weights.

    `spans` partition the response's characters; what lies behind is the stop token. A token that covers characters
    of several weights takes the largest, with the label of the first span that has it.
    """
    borders = np.array([span.start for span in spans] + [response_characters], dtype=np.int32)
    weights = np.array([span.weight for span in spans] + [suffix_weight], dtype=np.float32)
    labels = np.array([_LABEL_IDS[span.label] for span in spans] + [_LABEL_IDS["suffix"]], dtype=np.int8)

    first = np.searchsorted(borders, encoded.start, side="right") - 1
    last = np.searchsorted(borders, np.maximum(encoded.end - 1, encoded.start), side="right") - 1
    first, last = np.maximum(first, 0), np.maximum(last, 0)
    weight, label = weights[first], labels[first]
    straddling = 0
    for k in np.flatnonzero(last > first):
        covered = weights[first[k] : last[k] + 1]
        straddling += int(covered.min() != covered.max())
        best = int(covered.argmax())
        weight[k], label[k] = covered[best], labels[first[k] + best]
    return weight, label, straddling
