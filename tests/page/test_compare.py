"""Two strategies on one row: the same tokens, other weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.encode.prepare import Preparer
from agentsft.page.compare import Comparison, changed_spans, compare, comparison_json
from agentsft.types import Conversation, Example, Message, Row

SCALES = ("default", "react", "last_round", "last_user_turn+react", "all", "hermes+ignore_empty_think")
ANSWERS = (
    "Thought: hm\nAction: go\nAction Input: 1",
    "Final Answer: 4",
    "plain",
    '<tool_call>\n{"name": "a"}\n</tool_call>',
)
TURN = st.tuples(st.sampled_from(ANSWERS), st.sampled_from([None, "I think."]), st.sampled_from([None, None, 0.5, 3.0]))


@pytest.fixture(scope="module")
def preparers(qwen_tokenizer: Any) -> dict[str, Preparer]:
    return {scale: Preparer(qwen_tokenizer, scale) for scale in SCALES}


def prepared(preparer: Preparer, turns: list[tuple[str, str | None, float | None]]) -> Example:
    messages = [
        message
        for n, (answer, reasoning, weight) in enumerate(turns)
        for message in (Message("user", f"question {n}"), Message("assistant", answer, reasoning, weight=weight))
    ]
    (example,) = preparer.prepare([Row(0, "made", Conversation(tuple(messages)))])
    return example


def compared(preparers: dict[str, Preparer], one: str, two: str, turns: Any) -> tuple[Example, Example, Comparison]:
    examples = prepared(preparers[one], turns), prepared(preparers[two], turns)
    found = compare(preparers[one], *examples)
    assert found is not None
    return *examples, found


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(TURN, min_size=1, max_size=4), pair=st.tuples(st.sampled_from(SCALES), st.sampled_from(SCALES)))
def test_both_strategies_keep_all_their_targets_on_one_tree(
    preparers: dict[str, Preparer], turns: Any, pair: tuple[str, str]
) -> None:
    one, two, found = compared(preparers, *pair, turns)
    for example, weights, labels in (
        (one, found.view.weights, found.view.label_ids),
        (two, found.weights, found.label_ids),
    ):
        assert example.tree is not None
        assert np.sort(weights[weights > 0]).tolist() == np.sort(example.tree.weight).tolist()
        assert np.sort(found.view.ids[labels >= 0]).tolist() == np.sort(example.tree.token).tolist()
        assert set(example.tree.input_ids.tolist()) <= set(found.view.ids.tolist())
    assert found.changed.any() == (sorted(found.groups()) != sorted((a, b, b) for a, b, _ in found.groups()))
    if one.turns and len(one.turns) == len(two.turns):
        assert one.tree is not None
        assert two.tree is not None
        assert np.array_equal(one.tree.input_ids, two.tree.input_ids)
        assert np.array_equal(found.view.ids, one.tree.input_ids)


@settings(max_examples=20, deadline=None)
@given(turns=st.lists(TURN, min_size=1, max_size=3), pair=st.tuples(st.sampled_from(SCALES), st.sampled_from(SCALES)))
def test_the_other_way_round_weights_change_places(preparers: dict[str, Preparer], turns: Any, pair: Any) -> None:
    one, two, there = compared(preparers, *pair, turns)
    back = compare(preparers[pair[1]], two, one)
    assert back is not None
    assert there.view.ids.tolist() == back.view.ids.tolist()
    assert there.weights.tolist() == back.view.weights.tolist()
    assert [(s.start, s.weight, w) for _, s, w in changed_spans(one, two)] == [
        (s.start, w, s.weight) for _, s, w in changed_spans(two, one)
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_a_strategy_changes_nothing_against_itself(preparers: dict[str, Preparer], scale: str) -> None:
    one, two, found = compared(preparers, scale, scale, [(answer, "hm", None) for answer in ANSWERS])
    assert not found.changed.any()
    assert list(changed_spans(one, two)) == []
    assert found.groups()


def test_spans_and_tokens_tell_the_same_changes(preparers: dict[str, Preparer]) -> None:
    one, two, found = compared(preparers, "default", "react", [(ANSWERS[0], None, None), (ANSWERS[1], None, None)])
    made = comparison_json("react", one, two, found)
    assert "".join(span["text"] for span in made["spans"]) == "Action: go\nAction Input: 1"
    assert {(s["label"], s["weight"], s["compared_weight"]) for s in made["spans"]} == {
        ("action", 1.0, 2.0),
        ("action_input", 1.0, 2.0),
    }
    changed = [row for row in made["tokens"] if row["weight"] != row["compared_weight"]]
    assert {row["label"] for row in changed} == {"action", "action_input"}
    assert sum(row["tokens"] for row in changed) == made["changed"] == int(found.changed.sum())


def test_a_message_that_only_one_strategy_trains_weighs_0_in_the_other(preparers: dict[str, Preparer]) -> None:
    _, two, found = compared(
        preparers, "default", "last_round", [("plain", "hm", None), ("Final Answer: 4", "hm", None)]
    )
    assert len(two.turns) == 1
    lost = {group for group in found.groups() if group[1] and not group[2]}
    assert {label for label, _, _ in lost} == {"think", "text", "suffix"}
    assert found.groups()["final_answer", 1.0, 1.0] > 0


def test_a_row_that_both_refuse_is_not_compared(preparers: dict[str, Preparer]) -> None:
    refused = prepared(preparers["default"], [("a <|im_start|> b", None, None)])
    assert refused.refusal is not None
    assert compare(preparers["default"], refused, refused) is None
    assert comparison_json("react", refused, refused, None)["refused"]["reason"] == "control_token"
