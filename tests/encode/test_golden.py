"""Whole conversations against what ms-swift and LLaMA-Factory train, character by character."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from agentsft.data.formats import to_conversation
from agentsft.encode.prepare import Preparer
from agentsft.types import Row
from tests import assets

pytestmark = pytest.mark.real_data

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUMBERED = {"flag_loss_scale", "flag_loss_scale_zero"}
"""Rows whose messages bring numbers: with us the number is the stop token's weight too, ms-swift leaves that at 1."""

Weighed = list[tuple[str, float]]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


def merged(pieces: Weighed) -> Weighed:
    """Neighbours of one weight joined, empty pieces and weight 0 left out."""
    kept = [(text, weight) for text, weight in pieces if text and weight]
    return [("".join(t for t, _ in group), weight) for weight, group in groupby(kept, key=lambda piece: piece[1])]


@cache
def preparer(loss_scale: str, mask_history: bool) -> Preparer:
    return Preparer(assets.smollm2_tokenizer(), loss_scale, mask_history, CHATML, control_tokens="allow")


def ours(record: dict[str, Any], loss_scale: str = "default", mask_history: bool = False) -> Weighed:
    """The trained characters of a row and their weights, in the order of the turns."""
    (example,) = preparer(loss_scale, mask_history).prepare([Row(0, record["id"], to_conversation(record))])
    assert example.refusal is None, example.refusal
    pieces: Weighed = []
    for turn in example.turns:
        pieces += [(turn.response[span.start : span.end], span.weight) for span in turn.spans]
        pieces.append((turn.suffix, turn.suffix_weight))
    return merged(pieces)


def theirs(record: dict[str, Any]) -> Weighed:
    """The peer's trained characters and weights, without the newline after a stop token, which no model samples."""
    tokenizer = assets.smollm2_tokenizer()
    weights = record.get("loss_scale") or [1.0] * len(record["labels"])
    weights = [weight if label != -100 else 0.0 for weight, label in zip(weights, record["labels"], strict=True)]
    pieces: Weighed = []
    for weight, group in groupby(zip(record["input_ids"], weights, strict=True), key=lambda pair: pair[1]):
        pieces.append((tokenizer.decode([number for number, _ in group]).replace("<|im_end|>\n", "<|im_end|>"), weight))
    return merged(pieces)


def without_stop_tokens(pieces: Weighed) -> Weighed:
    return merged([(text.replace("<|im_end|>", ""), weight) for text, weight in pieces])


def test_a_strategy_trains_the_characters_that_ms_swift_trains(shared: Path) -> None:
    compared = set()
    for record in lines(shared / "golden" / "tokens_ms_swift_4.6.jsonl"):
        strategy = record["strategy"]
        if any(message["role"] == "tool" for message in record["messages"]):
            continue  # its agent template joins the tool's text to the assistant's message and trains both
        if strategy == "all":
            continue  # below
        got, wanted = ours(record, strategy), theirs(record)
        if record["loss_scale"] is None:  # it reduces a message's number to 0 or 1 where its strategy has no others
            got = merged([(text, 1.0) for text, _ in got])
        if record["id"] in NUMBERED:
            got, wanted = without_stop_tokens(got), without_stop_tokens(wanted)
        assert got == wanted, (record["id"], strategy)
        compared.add((record["id"], strategy))
    assert len(compared) == 12 * 12


def test_the_base_all_trains_everything_behind_the_first_token(shared: Path) -> None:
    compared = 0
    for record in lines(shared / "golden" / "tokens_ms_swift_4.6.jsonl"):
        if record["strategy"] != "all" or any(message["role"] == "tool" for message in record["messages"]):
            continue
        made = Preparer(assets.smollm2_tokenizer(), "all", chat_template=CHATML, control_tokens="allow")
        (example,) = made.prepare([Row(0, record["id"], to_conversation(record))])
        (sequence,) = made.sequences(example)
        trained = made.tokenizer.decode(sequence.input_ids[sequence.labels != -100])
        wanted = record["trained_text"].removesuffix("\n")
        if record["id"] in NUMBERED:
            trained, wanted = trained.replace("<|im_end|>", ""), wanted.replace("<|im_end|>", "")
        assert trained == wanted, record["id"]
        compared += 1
    assert compared == 12


@pytest.mark.parametrize("mask_history", [False, True])
def test_mask_history_trains_the_characters_that_llamafactory_trains(shared: Path, mask_history: bool) -> None:
    compared = set()
    for record in lines(shared / "golden" / "labels_llamafactory_0.9.jsonl"):
        if record["template"] != "chatml" or record["train_on_prompt"] or record["mask_history"] != mask_history:
            continue
        if record["cutoff_len"] < 2048 or record["tools"] or not record.get("input_ids"):
            continue  # it cuts responses in half; it words tools in its own way; it drops the row
        rest = {key: value for key, value in record.items() if key in ("id", "conversations")}
        assert ours(rest, mask_history=mask_history) == theirs(record), record["id"]
        compared.add(record["id"])
    assert len(compared) >= 7, compared
