"""What must hold of whatever the fuzzers feed. A target that raises, other than by an assert of its own, is a crash.

Readers, renderer and matchers may refuse with UserError or RowError and with nothing else; a refusal is one line; what
is accepted is proven here once more, independently of the code that proves it.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from agentsft.config import TrainConfig, build
from agentsft.data.agent_format import AGENT_FORMATS, fold
from agentsft.data.formats import inline_reasoning, to_conversation
from agentsft.data.read import read_rows
from agentsft.encode.prepare import Preparer
from agentsft.encode.view import path_views
from agentsft.errors import RowError, UserError
from agentsft.recipe import dump_recipe, load_recipe
from agentsft.render import sandbox
from agentsft.render.template import Template, message_dicts
from agentsft.types import LABELS, ROLES, Conversation, Message, Row
from agentsft.weigh import strategy
from agentsft.weigh.labels import label_response
from agentsft.weigh.loss_scale import LossScale
from agentsft.weigh.table import read_table, strategy_from_table
from tests import assets
from tests.conversations import KINDS
from tests.fuzz import inputs

MODELS = ("smollm2", "qwen3", "llama3_1", "gptoss", "glm4moe", "gemma4")


@dataclass(frozen=True)
class Target:
    """`check` is called with one value of `values`; None stands for raw bytes."""

    check: Callable[[Any], None]
    values: st.SearchStrategy[Any] | None = None


def assert_said_in_one_line(error: UserError | RowError) -> None:
    text = error.detail if isinstance(error, RowError) else str(error)
    assert text.strip()
    assert "\n" not in text
    assert len(text) < 5000


def assert_is_read(conversation: Conversation) -> None:
    """Everything that rendering relies on: roles, types, names, an assistant, and no text that UTF-8 cannot write."""
    assert any(message.role == "assistant" for message in conversation.messages)
    for message in conversation.messages:
        assert message.role in ROLES
        assert isinstance(message.content, str)
        assert message.role == "assistant" or not (message.tool_calls or message.reasoning)
        assert message.train in (None, True, False)
        assert message.weight is None or np.isfinite(np.float32(message.weight))
        assert message.weight in (None, 0) or np.float32(message.weight) > 0
        for call in message.tool_calls:
            assert call.name.strip()
            assert isinstance(call.arguments, (dict, str))
    assert all(isinstance(tool["function"]["name"], str) for tool in conversation.tools)


def _rows(suffix: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a" + suffix)
        path.write_bytes(data)
        try:
            rows = list(read_rows([str(path)]))
        except UserError as error:
            assert str(path) in str(error)
            assert_said_in_one_line(error)
            return
        assert [row.index for row in rows] == list(range(len(rows)))
        for row in rows:
            assert row.source.startswith(str(path))
            assert (row.conversation is None) != (row.refusal is None)
            if row.conversation is not None:
                assert_is_read(row.conversation)
                json.dumps([str(row.conversation)], ensure_ascii=False).encode()
            if row.refusal is not None:
                assert "\n" not in row.refusal.detail
                assert row.refusal.detail.endswith(".")


def record(value: Any) -> None:
    """Any row is a conversation or refused; every agent format then folds it into plain text or refuses it."""
    for data_format in ("auto", "react"):
        try:
            conversation = to_conversation(value, data_format)
            assert_is_read(conversation)
            inline_reasoning(conversation)
        except RowError as error:
            assert_said_in_one_line(error)
            continue
        for agent_format in AGENT_FORMATS:
            try:
                folded = fold(conversation, agent_format)
            except RowError as error:
                assert_said_in_one_line(error)
                continue
            assert not folded.tools
            assert not any(message.tool_calls or message.role == "tool" for message in folded.messages)


@functools.cache
def preparer(name: str) -> Preparer:
    made = {"smollm2": assets.smollm2_tokenizer, "qwen3": assets.qwen_tokenizer}
    tokenizer = made[name]() if name in made else assets.tokenizer_for(name)
    return Preparer(tokenizer, loss_scale="default")


def conversation(value: tuple[str, Conversation]) -> None:
    """A conversation is refused, or trained exactly: the targets are those of its responses and no others, they decode
    to response and stop token, and the prompts hold no more control tokens than those of a harmless conversation."""
    name, given = value
    made = preparer(name)
    (example,) = made.prepare([Row(0, "f:1", given)])
    if example.tree is None:
        assert example.refusal is not None
        assert example.refusal.reason != "unproven", example.refusal
        assert_said_in_one_line(RowError(example.refusal.reason, example.refusal.detail))
        return
    tokenizer = made.tokenizer
    normalizer = tokenizer.backend_tokenizer.normalizer
    wanted: set[tuple[bytes, int]] = set()
    for turn in example.turns:
        prompt = tokenizer.encode(turn.prompt, add_special_tokens=False)
        response = made.encoder.encode_responses([turn])[0].ids.tolist()
        text = turn.response + turn.suffix
        assert tokenizer.decode(response, skip_special_tokens=False) in (
            text,
            normalizer and normalizer.normalize_str(text),
        )
        assert "".join(turn.response[span.start : span.end] for span in turn.spans) == turn.response
        ids = prompt + response
        weight = given.messages[turn.message].weight
        assert weight is None or weight > 0
        wanted |= {(np.array(ids[:k], np.int32).tobytes(), ids[k]) for k in range(len(prompt), len(ids))}
    trained = [
        (sequence.input_ids[:k].tobytes(), int(sequence.input_ids[k]))
        for sequence in made.sequences(example)
        for k in np.flatnonzero(sequence.labels != -100).tolist()
    ]
    assert len(trained) == len(set(trained))
    assert set(trained) == wanted
    for view in path_views(made, example):
        assert all(token.kind in ("response", "suffix") for token in view.tokens if token.weight)
    _assert_nothing_forged(made, given, [turn.prompt + turn.response for turn in example.turns])


def _assert_nothing_forged(made: Preparer, given: Conversation, texts: list[str]) -> None:
    """As many control tokens as with the same messages whose texts are free of all that makes one."""
    harmless = str.maketrans("<|>｜", "(!)!")

    def calm(text: str) -> str:
        kept = text.replace("<think>", "\x01").replace("</think>", "\x02")
        return kept.translate(harmless).replace("\x01", "<think>").replace("\x02", "</think>")

    if any(message.tool_calls or message.name for message in given.messages) or given.template_kwargs:
        return
    messages = tuple(
        Message(m.role, calm(m.content), m.reasoning and calm(m.reasoning), train=m.train, weight=m.weight)
        for m in given.messages
    )
    (twin,) = made.prepare([Row(0, "f:1", Conversation(messages, given.tools))])
    if len(twin.turns) != len(texts):
        return
    control = set(made.tokenizer.convert_tokens_to_ids(list(made.traits.delimiters)))
    count = [
        [sum(number in control for number in made.tokenizer.encode(text, add_special_tokens=False)) for text in side]
        for side in (texts, [turn.prompt + turn.response for turn in twin.turns])
    ]
    assert count[0] == count[1], (texts, count)


def weights(value: tuple[Any, str, str | None]) -> None:
    """Any table is a strategy or an error that names it; its spans partition the response, and their weights are
    finite. No search goes on without end."""
    table, response, query = value
    strategy.PATTERN_SECONDS = 0.5
    try:
        made = LossScale("t", "default", (strategy_from_table(table, "t", "file t.json", "t.json"),))
        largest = made.strategies[0].largest_weight
        spans = made.spans(response, query)
    except UserError as error:
        assert "t.json" in str(error)
        return
    assert "".join(response[span.start : span.end] for span in spans) == response
    assert all(0 <= span.weight <= largest for span in spans)
    assert all(span.label in LABELS for span in spans)
    assert all(a.end == b.start and (a.weight, a.label) != (b.weight, b.label) for a, b in pairwise(spans))


def table_file(data: bytes) -> None:
    """Any file is a table, a table's error or a file's error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.json")
        path.write_bytes(data)
        try:
            strategy_from_table(read_table(path), "t", f"file {path}", str(path))
        except UserError as error:
            assert str(path) in str(error)


def labels(response: str) -> None:
    """Labels partition any response."""
    pieces = label_response(response)
    assert "".join(response[start:end] for start, end, _ in pieces) == response
    assert all(start < end and label in LABELS for start, end, label in pieces)


def recipe(data: bytes) -> None:
    """Any file is a recipe that can be written and read again, or an error that names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.yaml")
        path.write_bytes(data)
        try:
            config = build(TrainConfig, load_recipe(path), str(path))
        except UserError as error:
            assert str(path) in str(error)
            return
        path.write_text(dump_recipe(config), encoding="utf-8")
        assert build(TrainConfig, load_recipe(path), str(path)) == config


def template(text: str) -> None:
    """Any template compiles and renders, or says why not, in bounded time; and it changes nothing that it is given."""
    sandbox.RENDER_SECONDS, sandbox.RENDER_BYTES = 0.5, 2**29
    given = KINDS["tool call"]
    dicts, tools = message_dicts(given), list(given.tools)
    before = json.dumps([dicts, tools])
    try:
        made = Template(assets.smollm2_tokenizer(), text, {"x": {"y": [1]}})
        assert isinstance(made.render(dicts, tools, True), str)
    except (UserError, RowError) as error:
        assert_said_in_one_line(error)
    assert json.dumps([dicts, tools]) == before


TARGETS: dict[str, Target] = {
    "jsonl": Target(functools.partial(_rows, ".jsonl")),
    "json": Target(functools.partial(_rows, ".json")),
    "parquet": Target(functools.partial(_rows, ".parquet")),
    "record": Target(record, inputs.RECORDS),
    "conversation": Target(conversation, st.tuples(st.sampled_from(MODELS), inputs.CONVERSATIONS)),
    "weights": Target(weights, st.tuples(inputs.TABLES, inputs.RESPONSES, st.none() | inputs.TEXT)),
    "table": Target(table_file),
    "labels": Target(labels, inputs.RESPONSES),
    "recipe": Target(recipe, inputs.RECIPES),
    "template": Target(template, inputs.TEMPLATES),
}
