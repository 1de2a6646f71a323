"""A whole ReAct trajectory in one response -> the model's steps and the environment's observations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agentsft.types import Message

_ACTION = re.compile(r"^Action(?: \d+)?:", re.MULTILINE)
_OBSERVATION = re.compile(r"^Observation(?: \d+)?:", re.MULTILINE)
_STEP = re.compile(r"^(?:Thought|Action|Final Answer)(?: \d+)?:", re.MULTILINE)


def split_trajectories(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Each assistant text that holds observations becomes assistant steps and user messages `Observation: ...`.

    The environment's words are then not trained, and each step is predicted after the observations that it saw. Text
    without a line `Action:` before a line `Observation:` stays whole. White space between a step and its observation
    is dropped; every step keeps the message's train switch and weight.
    """
    return tuple(step for message in messages for step in _steps(message))


def _steps(message: Message) -> Iterator[Message]:
    action = None
    if message.role == "assistant" and not message.tool_calls:
        action = _ACTION.search(message.content)
    if action is None:
        yield message
        return
    text, start, searched = message.content, 0, action.end()
    reasoning = message.reasoning
    while observation := _OBSERVATION.search(text, searched):
        if step := text[start : observation.start()].rstrip():
            yield replace(message, content=step, reasoning=reasoning)
            reasoning = None
        next_step = _STEP.search(text, observation.end())
        start = searched = next_step.start() if next_step else len(text)
        yield Message("user", text[observation.start() : start].rstrip())
    if start < len(text):
        yield replace(message, content=text[start:], reasoning=reasoning)
