"""What one strategy changes against another: both on one tree, since strategies never change an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from agentsft.encode.linear import split_targets
from agentsft.encode.prepare import Preparer
from agentsft.encode.tree import TurnIds, build_tree, leaf_paths, split_tokens
from agentsft.encode.view import TreeView, tree_view
from agentsft.types import LABELS, Example, Span, TokenTree, Turn


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two strategies on one row.

    `example` has the turns that either of them trains, `view` their tree with the first one's labels and weights;
    `label_ids` int8[n] and `weights` float32[n] are the other's, of the same tokens.
    """

    example: Example
    view: TreeView
    label_ids: np.ndarray
    weights: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """bool[n]: the tokens whose weight differs."""
        return self.view.weights != self.weights

    def groups(self) -> Counter[tuple[str, float, float]]:
        """Tokens that either strategy trains, by (label, weight, the other's weight)."""
        both = np.maximum(self.view.label_ids, self.label_ids)
        keys = zip(both.tolist(), self.view.weights.tolist(), self.weights.tolist(), strict=True)
        return Counter((LABELS[label], one, two) for label, one, two in keys if label >= 0)


def compare(preparer: Preparer, one: Example, two: Example) -> Comparison | None:
    """`one` and `two`, the same row under two strategies, side by side; None where both are refused.

    Asserts that neither prompts, responses nor ids differ.
    """
    turns = {turn.message: turn for turn in (*two.turns, *one.turns)}
    if not turns:
        return None
    for turn in two.turns:
        ours = turns[turn.message]
        assert (ours.prompt, ours.response, ours.suffix) == (turn.prompt, turn.response, turn.suffix)
    if (
        one.tree is not None
        and two.tree is not None
        and [t.message for t in one.turns] == [t.message for t in two.turns]
    ):
        assert np.array_equal(one.tree.input_ids, two.tree.input_ids)
    ordered = tuple(turns[message] for message in sorted(turns))
    tree = _untrained_tree(preparer, ordered)
    conversation = one.conversation or two.conversation
    example = replace(
        one, turns=ordered, tree=tree, refusal=None, conversation=conversation, split_tokens=split_tokens(tree)
    )
    label_ids, weights = _on(tree, one.tree)
    view = replace(tree_view(preparer, example), label_ids=label_ids, weights=weights)
    return Comparison(example, view, *_on(tree, two.tree))


def changed_spans(one: Example, two: Example) -> Iterator[tuple[Turn, Span, float]]:
    """The characters whose weight differs: (turn, span with the first weight, the other's weight).

    A span beyond the response is the stop token. A message that only one of them trains weighs 0 in the other.
    """
    ours, theirs = ({turn.message: turn for turn in example.turns} for example in (one, two))
    for message in sorted(ours.keys() | theirs.keys()):
        first, second = ours.get(message), theirs.get(message)
        turn = first or second
        assert turn is not None
        end = len(turn.response)
        pieces = [
            [] if t is None else [*t.spans, Span(end, end + len(t.suffix), t.suffix_weight, "suffix")]
            for t in (first, second)
        ]
        borders = sorted({border for piece in pieces for span in piece for border in (span.start, span.end)})
        for low, high in pairwise(borders):
            found = [next((span for span in piece if span.start <= low < span.end), None) for piece in pieces]
            weights = [0.0 if span is None else span.weight for span in found]
            label = next(span.label for span in found if span is not None)
            if weights[0] != weights[1]:
                yield turn, Span(low, high, weights[0], label), weights[1]


def comparison_json(loss_scale: str, one: Example, two: Example, found: Comparison | None) -> dict[str, Any]:
    """The comparison of one row as JSON values; `loss_scale` names the second strategy."""
    refusal = two.refusal
    groups = sorted(found.groups().items()) if found else []
    return {
        "loss_scale": loss_scale,
        "refused": refusal and {"reason": refusal.reason, "message": refusal.message, "detail": refusal.detail},
        "changed": int(found.changed.sum()) if found else 0,
        "tokens": [
            {"label": label, "weight": a, "compared_weight": b, "tokens": count} for (label, a, b), count in groups
        ],
        "spans": [
            {
                "message": turn.message,
                "start": span.start,
                "end": span.end,
                "text": (turn.response + turn.suffix)[span.start : span.end],
                "label": span.label,
                "weight": span.weight,
                "compared_weight": weight,
            }
            for turn, span, weight in changed_spans(one, two)
        ],
    }


def _untrained_tree(preparer: Preparer, turns: tuple[Turn, ...]) -> TokenTree:
    responses = preparer.encoder.encode_responses(turns)
    return build_tree(
        [
            TurnIds(
                preparer.encoder.encode_prompt(turn.prompt),
                encoded.ids,
                np.zeros(len(encoded.ids), np.float32),
                np.zeros(len(encoded.ids), np.int8),
            )
            for turn, encoded in zip(turns, responses, strict=True)
        ]
    )


def _on(whole: TokenTree, part: TokenTree | None) -> tuple[np.ndarray, np.ndarray]:
    """The targets of `part` on the tokens of a tree that holds all its paths: label_ids int8[n], weights float32[n]."""
    label_ids, weights = np.full(len(whole), -1, np.int8), np.zeros(len(whole), np.float32)
    if part is None:
        return label_ids, weights
    paths = leaf_paths(whole)
    for path, own, at in split_targets(part):
        ids = part.input_ids[path]
        places = next((p for p in paths if np.array_equal(whole.input_ids[p[: len(ids)]], ids)), None)
        assert places is not None
        label_ids[places[at + 1]] = part.label[own]
        weights[places[at + 1]] = part.weight[own]
    return label_ids, weights
