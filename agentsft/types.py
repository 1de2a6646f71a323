"""The values that cross borders: small, frozen, and the same for every command.

A row of a file becomes a `Conversation`, its trained messages become `Turn`s, and these merge into one `TokenTree`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LABELS = (
    "text",
    "think",
    "thought",
    "action",
    "action_input",
    "tool_call",
    "observation",
    "final_answer",
    "suffix",
    "prompt",
)
"""What a trained span is. `prompt` occurs only with the base strategy `all`. A label's index is its id in a tree."""

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. `arguments` is a dict where the source held a JSON object, else its text as it stood."""

    name: str
    arguments: dict[str, Any] | str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message, whatever format it came from.

    `content` is never null (an empty string instead). `train` switches the message on or off and `weight` replaces
    the strategy's weights for the whole message; both are None where the row does not say.
    """

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    train: bool | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of one row, with the tools they may call (OpenAI form: type, function) and template variables."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row is not trained: a stable reason, the message at fault (or None), and one line for a person."""

    reason: str
    detail: str
    message: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input, numbered over all files from 0. Exactly one of `conversation`, `refusal` is set.

    `source` is `file:line` for JSONL and `file#row` for other files.
    """

    index: int
    source: str
    conversation: Conversation | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a response, how much they weigh, and what they are (one of `LABELS`)."""

    start: int
    end: int
    weight: float
    label: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a path's text. `kind` is system, query, response or suffix; `message` its message's index.

    The segments of a root-to-leaf path join to its text, byte for byte.
    """

    kind: str
    text: str
    message: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One trained message, as it is served.

    `prompt` is what the server renders before it samples message number `message`, `response` what the model is to
    sample, `suffix` the stop token that ends it. `spans` partition the response in order; `suffix_weight` is the
    stop token's weight.
    """

    message: int
    prompt: str
    response: str
    suffix: str
    spans: tuple[Span, ...]
    suffix_weight: float


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """The trained messages of one conversation, merged where their tokens agree, in depth-first order.

    n tokens: `input_ids`, `position_ids` (depth in the tree), `subtree_end`, all int32[n]. Token q sees token k iff
    `k <= q < subtree_end[k]`. Trees laid side by side, with their offsets added, are a forest that obeys the same
    rule, so one array says everything about packing and branching.

    m targets: the hidden state at position `source` (int32[m]) predicts `token` (int32[m]) with `weight`
    (float32[m], > 0); `label` (int8[m]) indexes `LABELS`. A fork has several targets at one source; nothing is
    shifted anywhere.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    subtree_end: np.ndarray
    source: np.ndarray
    token: np.ndarray
    weight: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_chain(self) -> bool:
        """Whether every token sees all the tokens before it, as in ordinary causal attention."""
        return bool((self.subtree_end == len(self)).all())


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """One root-to-leaf path, for people and for other trainers: five aligned arrays and the segments of its text.

    `labels` is -100 and `loss_scale` 0 where nothing is trained. Unlike a tree's targets, `labels[i]` is
    `input_ids[i]` itself, the form in which Transformers takes labels. Every target of the tree is in exactly one
    path.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    loss_scale: np.ndarray
    position_ids: np.ndarray
    label_ids: np.ndarray
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What became of one row: its turns and tree, or the refusal that says why there are none.

    `lost_turns` and `lost_tokens` count what an over-long conversation had to leave out (`lost` says why), or what a
    refused one would have trained, its tokens estimated.
    `straddling` counts the tokens that cross a border between two weights. Training needs neither texts nor
    conversation: a compact example has none, but `turn_count`, and as `task` a hash of its first user message.
    """

    index: int
    source: str
    turns: tuple[Turn, ...] = ()
    tree: TokenTree | None = None
    refusal: Refusal | None = None
    lost: Refusal | None = None
    lost_turns: int = 0
    lost_tokens: int = 0
    straddling: int = 0
    split_tokens: int = 0
    conversation: Conversation | None = None
    id: str | None = None
    turn_count: int = 0
    task: str | None = None
