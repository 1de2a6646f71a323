"""Which messages are trained: bases, mask_history, and what a message says of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.errors import UserError
from agentsft.types import Message
from agentsft.weigh.loss_scale import BASES, parse_loss_scale
from agentsft.weigh.select import check_combination, query_of, response_spans, trained_messages

ROLES = ("system", "user", "assistant", "tool")
conversations = st.lists(
    st.builds(
        Message,
        st.sampled_from(ROLES),
        st.text(max_size=3),
        train=st.sampled_from([None, None, True, False]),
        weight=st.sampled_from([None, None, 0.0, 0.5, 3.0]),
    ),
    max_size=12,
)


def chat(roles: str, **of_message: dict) -> list[Message]:
    """`chat("uau")` is user, assistant, user; `m1={"train": True}` gives message 1 its flags."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [Message(names[r], r, **of_message.get(f"m{i}", {})) for i, r in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "base", "expected"),
    [
        ("suaua", "default", [2, 4]),
        ("suaua", "all", [2, 4]),
        ("suaua", "last_round", [4]),
        ("suaua", "last_user_turn", [4]),
        ("uauatata", "last_round", [7]),
        ("uauatata", "last_user_turn", [3, 5, 7]),
        ("uatau", "last_user_turn", [1, 3]),
        ("uatat", "last_round", [3]),
        ("saa", "last_user_turn", [1, 2]),
        ("su", "last_user_turn", []),
        ("", "default", []),
    ],
)
def test_a_base_selects_assistant_messages(roles, base, expected):
    assert trained_messages(chat(roles), base, mask_history=False) == dict.fromkeys(expected)


def test_mask_history_leaves_the_last_assistant_message_whatever_the_base():
    for base in ("default", "last_round", "last_user_turn"):
        assert trained_messages(chat("uatatau"), base, mask_history=True) == {5: None}


def test_a_flag_wins_over_base_and_mask_history():
    messages = chat("uauaua", m1={"train": True}, m5={"train": False})
    assert trained_messages(messages, "last_round", mask_history=False) == {1: None}
    assert trained_messages(messages, "default", mask_history=True) == {1: None}
    assert trained_messages(messages, "default", mask_history=False) == {1: None, 3: None}


def test_a_number_replaces_the_weights_of_trained_messages_alone_and_zero_switches_off():
    messages = chat("uauaua", m1={"weight": 0.5}, m3={"weight": 0.0}, m5={"weight": 3.0})
    assert trained_messages(messages, "default", mask_history=False) == {1: 0.5, 5: 3.0}
    assert trained_messages(messages, "last_round", mask_history=False) == {5: 3.0}
    on_by_flag = chat("uaua", m1={"weight": 0.5, "train": True})
    assert trained_messages(on_by_flag, "last_round", mask_history=False) == {1: 0.5, 3: None}
    off_by_flag = chat("ua", m1={"weight": 2.0, "train": False})
    assert trained_messages(off_by_flag, "default", mask_history=False) == {}


def test_flags_of_other_roles_do_not_matter():
    messages = chat("suat", m0={"train": True}, m1={"weight": 2.0}, m3={"train": True})
    assert trained_messages(messages, "last_round", mask_history=False) == {2: None}


@given(conversations)
def test_narrower_bases_train_less_and_only_assistant_messages(messages):
    trained = {base: trained_messages(messages, base, mask_history=False) for base in BASES}
    assert trained["last_round"].items() <= trained["last_user_turn"].items() <= trained["default"].items()
    assert trained["default"] == trained["all"]
    assert trained_messages(messages, "default", mask_history=True) == trained["last_round"]
    assert all(messages[i].role == "assistant" and number != 0 for i, number in trained["all"].items())
    assert list(trained["all"]) == sorted(trained["all"])


def test_mask_history_and_all_contradict_each_other():
    for spec in ("all", "all+react"):
        with pytest.raises(UserError, match=r"mask_history .* all ") as error:
            check_combination(parse_loss_scale(spec), mask_history=True)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="mask_history"):
        trained_messages(chat("ua"), "all", mask_history=True)
    assert check_combination(parse_loss_scale("all"), mask_history=False) is None
    assert check_combination(parse_loss_scale("last_round"), mask_history=True) is None


def test_an_unknown_base_names_the_nearest():
    with pytest.raises(UserError, match='Did you mean "last_round"'):
        trained_messages(chat("ua"), "last_rond", mask_history=False)


def test_the_query_is_the_nearest_user_or_tool_message_before():
    messages = [
        Message("system", "s"),
        Message("assistant", "greets first"),
        Message("user", "first"),
        Message("assistant", "calls"),
        Message("tool", "result"),
        Message("system", "a hint"),
        Message("assistant", "answers"),
    ]
    assert [query_of(messages, i) for i in (1, 3, 6)] == [None, "first", "result"]


def test_a_numeric_override_is_the_weight_of_everything_and_of_the_stop_token():
    loss_scale = parse_loss_scale("react")
    response = "Thought: t\nObservation: o"
    spans, suffix = response_spans(loss_scale, response, None, 0.25)
    assert ([(response[s.start : s.end], s.weight, s.label) for s in spans], suffix) == (
        [("Thought: t\n", 0.25, "thought"), ("Observation: o", 0.25, "observation")],
        0.25,
    )
    spans, suffix = response_spans(loss_scale, response, None, None)
    assert (spans, suffix) == (loss_scale.spans(response, None), 1.0)
    assert response_spans(loss_scale, "", None, 2.0) == ((), 2.0)
    spans, suffix = response_spans(loss_scale, "Action: a", None, 0.0)
    assert ([span.weight for span in spans], suffix) == ([0.0], 0.0)
