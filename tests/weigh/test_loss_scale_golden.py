"""Every character of the golden vectors weighs what ms-swift says, but for the deviations declared here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agentsft.types import Message
from agentsft.weigh.loss_scale import parse_loss_scale
from agentsft.weigh.select import query_of, response_spans, trained_messages

pytestmark = pytest.mark.real_data

FILES = ("loss_scale_ms_swift_3.9.jsonl", "loss_scale_ms_swift_4.6.jsonl")

# In these versions last_round trained every step after the last user message: last_user_turn here.
LAST_ROUND_IS_LAST_USER_TURN = ("3.12.6", "4.3.2", "4.5.0")

Place = tuple[str, int]
"""A vector's id and the number of the response in it."""

# Name -> the versions, the word that the strategy's spec holds ("" is any), and the responses that weigh otherwise.
DEVIATIONS: dict[str, tuple[tuple[str, ...], str, list[Place]]] = {
    "an empty think block is found anywhere": (
        ("3.12.6", "4.3.2", "4.5.0", "4.5.3", "4.6.0"),
        "ignore_empty_think",
        [("think_leading_ws", 0), ("think_mid", 0)],
    ),
    "every pattern is matched once, on the whole response": (
        ("3.12.6", "4.3.2", "4.5.0", "4.5.3", "4.6.0"),
        "ignore_empty_think",
        [("think_double_empty", 0)],
    ),
    "other models' empty blocks count, in 3.9 only <think></think>": (
        ("3.9.3",),
        "ignore_empty_think",
        [("think_close_only", 0), ("think_seed", 0), ("think_mm", 0)],
    ),
    "other models' empty blocks count, in 3.12 not yet </mm:think>": (
        ("3.12.6",),
        "ignore_empty_think",
        [("think_mm", 0)],
    ),
    "Next: is a keyword": (("3.9.3", "3.12.6", "4.3.2"), "alpha_umi", [("umi_next_repeat", 0)]),
    "a message's number replaces the weights, unknown up to 3.12": (
        ("3.9.3", "3.12.6"),
        "",
        [("flag_loss_scale", 1), ("flag_loss_scale_and_loss", 1)],
    ),
    "a message's number replaces the weights of history too, unknown up to 3.12": (
        ("3.9.3", "3.12.6"),
        "not last_round",
        [("flag_loss_scale", 0), ("flag_loss_scale_zero", 0)],
    ),
    "a message that is switched on has the strategy's weights, in 3.9 weight 1": (
        ("3.9.3",),
        "react agentflan alpha_umi",
        [("flag_loss_true_hist", 0), ("flag_loss_int", 1)],
    ),
}


cached_loss_scale = cache(parse_loss_scale)


def holds(spec: str, words: str) -> bool:
    names = spec.replace("last_round_with_", "last_round+").split("+")
    if words.startswith("not "):
        return words.removeprefix("not ") not in names
    return not words or any(word in names for word in words.split())


def vectors(shared: Path) -> Iterator[dict]:
    for name in FILES:
        with open(shared / "golden" / name, encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def differing(vector: dict, spec: str) -> list[int]:
    """The numbers of the responses in which some character weighs other than in the vector."""
    messages = [
        Message(
            m["role"],
            m["content"],
            train=bool(m["loss"]) if "loss" in m else None,
            weight=m.get("loss_scale"),
        )
        for m in vector["messages"]
    ]
    loss_scale = cached_loss_scale(spec)
    trained = trained_messages(messages, loss_scale.base, mask_history=False)
    indices = [i for i, m in enumerate(messages) if m.role == "assistant"]
    numbers = []
    for number, (i, response) in enumerate(zip(indices, vector["per_response"], strict=True)):
        text = messages[i].content
        assert text == response["text"]
        ours = [0.0] * len(text)
        if i in trained:
            spans, _ = response_spans(loss_scale, text, query_of(messages, i), trained[i])
            ours = [span.weight for span in spans for _ in range(span.end - span.start)]
        theirs = [weight for length, weight in response["char_weights"] for _ in range(length)]
        if ours != theirs:
            numbers.append(number)
    return numbers


def test_weights_are_the_peers_except_for_the_declared_deviations_and_each_of_these_is_needed(shared):
    found, declared, responses = set(), set(), 0
    for vector in vectors(shared):
        version, spec, id = vector["ms_swift_version"], vector["strategy"], vector["id"]
        responses += len(vector["per_response"])
        ours = spec.replace("last_round", "last_user_turn") if version in LAST_ROUND_IS_LAST_USER_TURN else spec
        found |= {(version, spec, id, number) for number in differing(vector, ours)}
        declared |= {
            (version, spec, id, number)
            for versions, words, places in DEVIATIONS.values()
            for place, number in places
            if version in versions and holds(spec, words) and place == id
        }
    assert responses == 4346
    assert found - declared == set(), "undeclared deviations"
    assert declared - found == set(), "declared deviations that do not occur"


@pytest.mark.parametrize("name", DEVIATIONS)
def test_every_deviation_occurs_in_each_of_its_versions(shared, name):
    versions, words, places = DEVIATIONS[name]
    seen = {
        (vector["ms_swift_version"], vector["id"])
        for vector in vectors(shared)
        if holds(vector["strategy"], words) and vector["ms_swift_version"] in versions
    }
    assert {(version, id) for version in versions for id, _ in places} <= seen


def test_last_round_of_the_versions_between_is_not_our_last_round(shared):
    between = {
        (vector["ms_swift_version"], vector["id"])
        for vector in vectors(shared)
        if vector["strategy"] == "last_round" and vector["id"] in ("react_single", "flan_tool_query")
        if differing(vector, "last_round")
    }
    expected = {(v, id) for v in LAST_ROUND_IS_LAST_USER_TURN for id in ("react_single", "flan_tool_query")}
    assert between == expected


def test_the_last_trained_message_of_4_6_is_the_peers_last_round(shared):
    rounds = 0
    for vector in vectors(shared):
        if vector["ms_swift_version"] != "4.6.0":
            continue
        messages = [Message(m["role"], m["content"]) for m in vector["messages"]]
        last = list(trained_messages(messages, "last_round", mask_history=False))
        indices = [i for i, m in enumerate(messages) if m.role == "assistant"]
        peers = [i for i, response in zip(indices, vector["per_response"], strict=True) if response["is_last_round"]]
        assert last == peers
        rounds += 1
    assert rounds == 1170
