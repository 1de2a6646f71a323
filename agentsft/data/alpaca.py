"""Question and answer: instruction/input/output, prompt/completion, query/response, with history and system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentsft.data.fields import json_field, kind, malformed
from agentsft.data.messages import read_messages
from agentsft.errors import RowError
from agentsft.types import Message

ASK_FIELDS = ("instruction", "prompt", "query", "question", "problem")
ANSWER_FIELDS = ("output", "completion", "response", "answer", "solution", "target", "targets")
_ANY_ANSWER = ("problem", "input")
"""Questions that go with no answer of one name."""


def matches(record: Mapping[str, Any]) -> bool:
    """Whether the row has a question and an answer under any of their names."""
    return _asked(record) is not None and _first(record, ANSWER_FIELDS) is not None


def read(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """The row's messages: history, question (its `input` on a line of its own), answer.

    In a prompt that is a list of messages, the assistant's are context: not trained, unless they say so themselves.
    """
    ask_name, answer_name = _asked(record), _first(record, ANSWER_FIELDS)
    if answer_name is None or not record[answer_name]:
        raise RowError("no_assistant", "The answer is empty; the row has nothing to train.")
    if record.get("context") and not record.get("input"):
        raise malformed("The row has a context beside its question, in no known order; write it into the question.")
    answers = [name for name in ANSWER_FIELDS if record.get(name)]
    if len(answers) > 1 and ask_name in _ANY_ANSWER:
        said = f"columns: {{output: {answer_name}}}"
        raise malformed(f"The row has {' and '.join(answers)}; say which is trained, such as {said}.")
    ask, answer = record.get(ask_name or "instruction") or "", record[answer_name]
    if isinstance(ask, list) or isinstance(answer, list):
        prompt = ask if isinstance(ask, list) else [{"role": "user", "content": ask}]
        completion = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
        return _prompt_and_completion(prompt, completion)
    below = "" if ask_name == "input" else record.get("input") or ""
    parts = [_text(ask, ask_name or "instruction"), _text(below, "input")]
    question = "\n".join(part for part in parts if part)
    if not question:
        raise malformed("The instruction is empty; give the answer its question.")
    pairs = [*_history(record), (question, _text(answer, answer_name))]
    return tuple(Message(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True))


def _prompt_and_completion(prompt: list[Any], completion: list[Any]) -> tuple[Message, ...]:
    context = (
        replace(message, train=False)
        if message.role == "assistant" and message.train is None and message.weight is None
        else message
        for message in read_messages(prompt)
    )
    return (*context, *read_messages(completion, first=len(prompt)))


def _history(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Earlier rounds: a list of [question, answer]."""
    rounds = json_field(record.get("history"), "history") or []
    if not isinstance(rounds, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in rounds):
        raise malformed("history must be a list of [question, answer] pairs.")
    return [(_text(question, "history"), _text(answer, "history")) for question, answer in rounds]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise malformed(f"{name} is {kind(value)}; it must be text.")
    return value


def _asked(record: Mapping[str, Any]) -> str | None:
    """The field with the question; `input`, which stands below one, where there is no other."""
    return _first(record, ASK_FIELDS) or ("input" if record.get("input") else None)


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The field among `names` that the record uses; one that is empty only where no other is filled."""
    filled = next((name for name in names if record.get(name)), None)
    return filled or next((name for name in names if record.get(name) is not None), None)
