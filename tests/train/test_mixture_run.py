"""A run over several sources: what it trains, what it says of each, and the same again when it is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsft.batch.order import epoch_order
from agentsft.config import TrainConfig, build
from agentsft.data.mixture import mixture_of
from agentsft.types import Example
from tests.train.test_run import Recorder, tiny_tokenizer, train, trees
from tests.train.tiny import saved_model


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_mixed_run_trains_its_weights_and_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    model = saved_model("llama", tmp_path / "model")
    all_trees = trees(9)
    paths = []
    examples = []
    for k, count in enumerate((5, 4)):
        path = tmp_path / f"{k}.jsonl"
        path.write_text("{}\n" * count)
        paths.append(str(path))
        examples += [
            Example(len(examples) + i, f"{path}:{i + 1}", tree=all_trees[len(examples) + i]) for i in range(count)
        ]
    base = {
        "model": model,
        "data": [paths[0], {"path": paths[1], "weight": 0.5}],
        "batch_size": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "micro_batch_tokens": 64,
    }
    whole = build(TrainConfig, {**base, "output": str(tmp_path / "whole")}, "test")
    train(whole, tiny_tokenizer(), examples, [], Recorder())
    rows = rows_of(tmp_path / "whole" / "metrics.jsonl")
    assert len(rows) == 2 * 4  # 5 + 2 conversations an epoch
    mixture = mixture_of(whole.data, whole.data_weights, whole.seed, [e.source for e in examples])
    for epoch in range(2):
        order = mixture.rows(epoch)[epoch_order(whole.seed, epoch, 7)]
        expected = [sum(len(all_trees[k]) for k in order[i : i + 2]) for i in range(0, 7, 2)]
        assert [row["tokens"] for row in rows[4 * epoch : 4 * epoch + 4]] == expected
    for row in rows:
        assert set(row["loss_by_source"]) <= set(paths)
        assert row["loss_by_source"]
    part = build(TrainConfig, {**base, "output": str(tmp_path / "part"), "save_steps": 1}, "test")
    with pytest.raises(KeyboardInterrupt):
        train(part, tiny_tokenizer(), examples, [], Recorder(stop_at=5))
    again = build(TrainConfig, {**vars(part), "resume": True}, "test")
    train(again, tiny_tokenizer(), examples, [], Recorder())
    resumed = rows_of(tmp_path / "part" / "metrics.jsonl")
    assert [r["loss"] for r in resumed] == pytest.approx([r["loss"] for r in rows])
