"""Rows that say for themselves which messages are trained, and how much."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent_tasks import mistakes, office, plain, service, shop
from agent_tasks.episode import Episode
from agent_tasks.formats import Row, openai, react

# The name of a row, the task, its format, and the flags: where, which key, which value.
# "failed" are the agent's messages whose call failed, "last" is its last message, "first" its first one.
Flags = tuple[tuple[str, str, object], ...]
CASES: tuple[tuple[str, Callable[[Episode], object], Callable[[Episode], Row], Flags], ...] = (
    ("failed-step-off", mistakes.wrong_table, openai, (("failed", "loss", False),)),
    ("failed-step-off-react", mistakes.unit_error, react, (("failed", "loss", False),)),
    ("failed-step-half", mistakes.wrong_column, openai, (("failed", "weight", 0.5), ("last", "weight", 2.0))),
    ("answer-only", shop.discount, react, (("other", "train", 0), ("last", "train", 1))),
    ("question-back-off", service.cancel, openai, (("asking", "trainable", False),)),
    ("all-but-first", office.deadline, react, (("first", "training", False),)),
    ("failed-step-light", mistakes.currency_error, openai, (("failed", "loss_weight", 0.25),)),
    ("light-courtesy", shop.reorder_cost, openai, (("last", "loss_scale", 0.1),)),
)  # fmt: skip


def weights_row(rng: random.Random, episode: Episode, number: int) -> Row:
    """Row `number` of the file: its task, written in its format, with its flags on the messages they belong to."""
    name, task, write, flags = CASES[number % len(CASES)]
    task(episode)
    if name == "light-courtesy":
        plain.thanks(episode)
    row = write(episode)
    for where, key, value in flags:
        chosen = [message for message in _marked(row["messages"], where) if key not in message]
        assert chosen, name
        for message in chosen:
            message[key] = value
    return {"id": f"weights-{name}", **row}


def _marked(messages: list[Row], where: str) -> list[Row]:
    agent = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    failed = [n for n in agent[:-1] if "Error: " in (messages[n + 1]["content"] or "")]
    asking = [n for n in agent[:-1] if (messages[n]["content"] or "").rstrip().endswith("?")]
    picked = {"first": agent[:1], "last": agent[-1:], "other": agent[:-1], "failed": failed, "asking": asking}[where]
    return [messages[n] for n in picked]
