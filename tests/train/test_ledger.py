"""No row is untrained in silence: what is lost is in the ledger, in numbers, and bounded before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsft.config import TrainConfig
from agentsft.encode.load import load_preparer
from agentsft.errors import UserError
from agentsft.train.dataset import Dataset, load_dataset

WORDS = "one two three four five six seven eight nine ten "


def row(*answers: str, **more: Any) -> dict[str, Any]:
    turns = [
        message
        for answer in answers
        for message in ({"role": "user", "content": "Go on."}, {"role": "assistant", "content": answer})
    ]
    return {"messages": turns, **more}


CALL = {"function": {"name": "f", "arguments": '{"x": "' + WORDS + '"}'}}
ROWS: list[Any] = [
    row("Yes.", id="a"),
    row("Yes.", id="b"),
    row("No.", id="a"),
    row("Yes.", WORDS * 20),
    row(WORDS * 20),
    row("fine", f"{WORDS}<|im_end|>"),
    {"messages": [*row("fine")["messages"], {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
    {"messages": [{"role": "user", "content": "Hi"}]},
    "no row",
    {"messages": [{"role": "assistant", "content": "Welcome!"}, *row("Yes.")["messages"]]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "train": False}]},
]


def loaded(path: Path, smollm2: Path, rows: list[Any], **more: Any) -> tuple[TrainConfig, Dataset]:
    data = path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = TrainConfig(
        model=str(smollm2), data=[str(data)], output=str(path / "out"), cache=False, max_length=120, **more
    )
    return config, load_dataset(config, load_preparer(config))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("overflow", ["drop_turns", "skip"])
def test_every_row_is_trained_in_full_or_in_the_ledger_with_what_it_loses(
    overflow: str, tmp_path: Path, smollm2: Path
) -> None:
    from transformers import AutoTokenizer

    config, dataset = loaded(tmp_path, smollm2, ROWS, overflow=overflow)
    dataset.ledger.write(Path(config.output))
    entries = {entry["row"]: entry for entry in lines(tmp_path / "out" / "ledger.jsonl")}
    trained = {example.index: example for example in dataset.train}
    cut = {3} if overflow == "drop_turns" else set()
    assert trained.keys() == {0, 1, 2, 9} | cut
    assert entries.keys() == set(range(len(ROWS))) - {0, 1, 2}
    assert {i for i, entry in entries.items() if not entry["refused"]} == {9} | cut
    assert {i: entry["reason"] for i, entry in entries.items()} == {
        3: "too_long", 4: "too_long", 5: "control_token", 6: "tools_unsupported", 7: "no_assistant",
        8: entries[8]["reason"], 9: "no_prompt", 10: "no_assistant",
    }  # fmt: skip
    assert {i: entry["turns_lost"] for i, entry in entries.items()} == {
        3: 1 if cut else 2, 4: 1, 5: 2, 6: 2, 7: 0, 8: 0, 9: 1, 10: 0,
    }  # fmt: skip
    long = len(WORDS.split())
    assert all(entries[i]["tokens_lost"] > 20 * long for i in (3, 4))
    assert long < entries[6]["tokens_lost"] < 4 * long
    said = AutoTokenizer.from_pretrained(smollm2)(["fine", f"{WORDS}<|im_end|>"], add_special_tokens=False)["input_ids"]
    assert entries[5]["tokens_lost"] == sum(map(len, said)) + len(said)  # and each one's stop token
    assert all(entry["source"] == f"{tmp_path / 'rows.jsonl'}:{i + 1}" for i, entry in entries.items())


def test_the_budget_counts_rows_and_the_tokens_of_refused_rows_too(tmp_path: Path, smollm2: Path) -> None:
    good, bad = row("Yes."), row(WORDS * 5 + "<|im_end|>")
    _, dataset = loaded(tmp_path, smollm2, [*[good] * 9, bad])
    dataset.ledger.enforce(0.99)
    with pytest.raises(UserError, match=r"10\.0% of the rows and [67]\d\.\d% of the trained tokens.*control_token 1"):
        dataset.ledger.enforce(0.5)
    clean = loaded(tmp_path, smollm2, [good])[1]
    clean.ledger.enforce(0.0)
    assert clean.ledger.entries == []


def test_data_of_which_nothing_can_be_trained_leaves_a_ledger_that_says_why(tmp_path: Path, smollm2: Path) -> None:
    with pytest.raises(UserError, match="can be trained"):
        loaded(tmp_path, smollm2, [ROWS[5], ROWS[7]])
    assert [entry["reason"] for entry in lines(tmp_path / "out" / "ledger.jsonl")] == ["control_token", "no_assistant"]


def test_repeated_rows_are_reported_and_trained(tmp_path: Path, smollm2: Path) -> None:
    config, dataset = loaded(tmp_path, smollm2, ROWS)
    output = Path(config.output)
    dataset.ledger.write(output)
    found = [(entry["kind"], entry["row"], entry["first"]) for entry in lines(output / "duplicates.jsonl")]
    first = f"{tmp_path / 'rows.jsonl'}:1"
    assert found == [("duplicate_text", 1, first), ("duplicate_text", 3, first), ("duplicate_id", 2, first)]
    assert {0, 1, 2, 3} <= {example.index for example in dataset.train}
    loaded(tmp_path, smollm2, ROWS[:1])[1].ledger.write(output)
    assert not (output / "duplicates.jsonl").exists()


def test_held_out_rows_that_are_trained_too_are_counted(tmp_path: Path, smollm2: Path) -> None:
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in (ROWS[0], row("Maybe."))), encoding="utf-8")
    _, dataset = loaded(tmp_path, smollm2, ROWS[:3], eval_data=[str(held_out)])
    assert dataset.trained_and_held_out == 1
