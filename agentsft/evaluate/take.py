"""Held-out conversations to turns: each with the very ids that a server would be given, and what it is judged by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat

import numpy as np

from agentsft.encode.load import load_rows
from agentsft.encode.prepare import Preparer
from agentsft.errors import RowError, UserError
from agentsft.evaluate.formats import Schemas
from agentsft.evaluate.judge import Reference, references
from agentsft.evaluate.reading import read_response
from agentsft.evaluate.settings import EvalConfig
from agentsft.lint.declared import declared_tools
from agentsft.types import Conversation, Example, Message, Row, TokenTree, ToolCall

_PROBE = Conversation(
    (Message("user", "Pack 3."), Message("assistant", tool_calls=(ToolCall("pack", {"pieces": 3}, "call00001"),))),
    (
        {
            "type": "function",
            "function": {
                "name": "pack",
                "description": "Packs.",
                "parameters": {"type": "object", "properties": {"pieces": {"type": "integer"}}},
            },
        },
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class EvalTurn:
    """One assistant message: `conversation` numbers the evaluated ones from 0, `message` is its index in the row.

    `prompt_ids` int32[n] are those of `reference.prompt`; `response` is the row's own.
    """

    conversation: int
    source: str
    message: int
    prompt_ids: np.ndarray
    response: str
    reference: Reference

    @property
    def prompt_hash(self) -> str:
        """64 bits of the SHA-256 of the prompt's text, in hexadecimal."""
        return hashlib.sha256(self.reference.prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass
class HeldOut:
    """The conversations of an evaluation. `left_out` counts rows without any turn, or with fewer, by reason."""

    turns: list[EvalTurn] = field(default_factory=list)
    trees: list[TokenTree] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    format_known: bool = True

    @property
    def unread(self) -> int:
        """Turns whose own calls cannot be read back, so that no call is judged there."""
        return sum(not turn.reference.readable for turn in self.turns)


def take_turns(
    config: EvalConfig,
    preparer: Preparer,
    advance: Callable[[], None] = lambda: None,
    only: Container[int] | None = None,
) -> HeldOut:
    """The first `config.limit` conversations of `config.data` that can be rendered; `advance` hears of each row.

    `only`, where given, holds the numbers of the rows to take. Raises UserError when there is none.
    """
    held_out = HeldOut(format_known=reads_own_calls(preparer))
    # What --agent-format folds into text had a schema before.
    plain = _taken(load_rows(replace(config, agent_format=None)), only) if config.agent_format else repeat(None)
    first = ""
    for example, unfolded in zip(preparer.prepare(_taken(load_rows(config), only)), plain, strict=False):
        advance()
        if fault := example.refusal or example.lost:
            held_out.left_out[fault.reason] += 1
            first = first or f"{example.source}: {fault.detail}"
        if example.tree is None or example.conversation is None:
            continue
        source = unfolded.conversation if unfolded is not None else None
        schemas = dict(declared_tools(source or example.conversation) or {})
        _add(held_out, preparer, example, schemas)
        if len(held_out.trees) == config.limit:
            break
    if not held_out.trees:
        raise UserError(f"no row of {', '.join(config.data)} can be evaluated{f': {first}' if first else '.'}")
    return held_out


def _taken(rows: Iterable[Row], only: Container[int] | None) -> Iterator[Row]:
    return (row for row in rows if only is None or row.index in only)


def _add(held_out: HeldOut, preparer: Preparer, example: Example, schemas: Schemas) -> None:
    assert example.conversation is not None
    assert example.tree is not None
    number = len(held_out.trees)
    held_out.trees.append(example.tree)
    known = held_out.format_known or not example.conversation.tools
    judged_by = references(example.conversation.messages, example.turns, schemas, known)
    for turn, reference in zip(example.turns, judged_by, strict=True):
        ids = preparer.encoder.encode_prompt(turn.prompt)
        held_out.turns.append(EvalTurn(number, example.source, turn.message, ids, turn.response, reference))


def reads_own_calls(preparer: Preparer) -> bool:
    """Whether the calls that the template writes can be read here; True where it writes none."""
    if not preparer.traits.renders_tool_calls:
        return True
    try:
        turn = preparer.renderer.turns(_PROBE, [1])[0]
    except RowError:  # this template wants another kind of conversation; each row tells for itself
        return True
    schemas = dict(declared_tools(_PROBE) or {})
    calls = read_response(turn.response, turn.prompt, schemas).calls
    return [(call.name, call.arguments, call.fault) for call in calls] == [("pack", {"pieces": 3}, "")]
