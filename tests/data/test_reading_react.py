"""Whole ReAct trajectories in one response."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsft.data.formats import to_conversation
from agentsft.types import Message

line = st.text("ab:{}[] \u00e9", min_size=1, max_size=12).map(lambda text: f"x{text}x")
block = st.lists(line, min_size=1, max_size=3).map("\n".join)
numbers = st.sampled_from(["", " 1", " 12"])


@given(
    steps=st.lists(st.tuples(block, line, block), min_size=1, max_size=4),
    final=st.none() | block,
    number=numbers,
    thoughts=st.booleans(),
    gap=st.sampled_from(["\n", "\n\n", " \n"]),
    flags=st.sampled_from([{}, {"loss": False}, {"weight": 2.0}]),
)
def test_a_trajectory_becomes_steps_and_observations(steps, final, number, thoughts, gap, flags):
    wanted: list[Message] = [Message("user", "q")]
    train, weight = flags.get("loss"), flags.get("weight")
    for thought, action, observation in steps:
        step = f"Thought{number}: {thought}\n" if thoughts else ""
        wanted.append(Message("assistant", f"{step}Action{number}: {action}", train=train, weight=weight))
        wanted.append(Message("user", f"Observation{number}: {observation}"))
    if final is not None:
        wanted.append(Message("assistant", f"Final Answer: {final}", train=train, weight=weight))
    text = gap.join(message.content for message in wanted[1:])
    record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text, **flags}]}
    assert to_conversation(record, "react").messages == tuple(wanted)
    # auto leaves the response as it stands: the strategy `react` can weigh its observations.
    assert [message.content for message in to_conversation(record, "auto").messages] == ["q", text]


@pytest.mark.parametrize(
    "text",
    [
        "Observation: the sky is blue.",
        "Thought: Observation: is a word\nAction: f\nAction Input: {}",
        "My observation:\nObservation: none\nAction: f",
        "Action: f\nAction Input: an Observation: inside",
        "Action: f\n  Observation: indented",
        "",
    ],
)
def test_text_without_an_observation_after_an_action_stays_whole(text):
    record = {"instruction": "q", "output": text or "x"}
    assert [message.content for message in to_conversation(record, "react").messages] == ["q", text or "x"]


def test_only_text_of_the_assistant_is_split():
    text = "Action: f\nObservation: r"
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text, "tool_calls": [call]}]
    record = {"messages": messages}
    assert to_conversation(record, "react") == to_conversation(record, "auto")


def test_reasoning_stays_with_the_first_step():
    text = "Action: f\nObservation: r\nFinal Answer: a"
    record = {"messages": [{"role": "assistant", "content": text, "reasoning": "hm"}]}
    found = [(message.role, message.reasoning) for message in to_conversation(record, "react").messages]
    assert found == [("assistant", "hm"), ("user", None), ("assistant", None)]
