"""The comparison of strategies: what it runs, what it leaves out, and the table."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import strategies


def written(folder: Path, rates: list[float], loss: float) -> None:
    """An evaluation of one conversation a rate, ten turns each."""
    folder.mkdir(parents=True)
    rows = [
        {"conversation": i, "verdicts": {"stops": turn < round(10 * rate)}}
        for i, rate in enumerate(rates)
        for turn in range(10)
    ]
    (folder / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = [{"by_label": {"text": {"nll": loss * 4, "tokens": 4}}} for _ in rates]
    (folder / "conversations.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (folder / "eval.json").write_text('{"metrics": {}}')


def arguments(output: Path, **more: object) -> argparse.Namespace:
    given = {"model": "M", "data": ["d"], "eval_data": ["e"], "strategy": ["default", "mask_history+react"], "seeds": 2}
    others = {"limit": 7, "max_new_tokens": None, "batch_tokens": None, "keep": False, "train": ["--max-steps", "3"]}
    return argparse.Namespace(**{**given, **others, "output": str(output), **more})


def test_only_what_is_not_evaluated_is_run_and_its_weights_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    rates = [0.1, 0.5, 0.9, 0.5]

    def run(words: list[str], name: str) -> None:
        commands.append(words)
        output = Path(words[words.index("--output") + 1])
        if words[0] == "eval":
            written(output, rates, 2.0)
        else:
            output.mkdir()
            (output / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(strategies, "_run", run)
    written(tmp_path / "untuned", rates, 3.0)
    written(tmp_path / "default-seed0" / "eval", rates, 2.0)
    strategies.main(arguments(tmp_path))
    assert [words[0] for words in commands] == ["train", "eval"] * 3
    assert "--mask-history" in commands[0]
    assert commands[0][commands[0].index("--loss-scale") + 1] == "react"
    assert commands[0][-3:] == ["--max-steps", "3", "--resume"]
    assert "--mask-history" not in commands[2]
    assert commands[1][commands[1].index("--limit") + 1] == "7"
    assert not list(tmp_path.rglob("*.safetensors"))
    strategies.main(arguments(tmp_path))
    assert len(commands) == 6


def test_the_table_has_means_over_seeds_and_paired_differences(tmp_path: Path) -> None:
    base = [0.0, 0.2, 0.4, 0.6, 0.8] * 4
    written(tmp_path / "untuned", base, 3.0)
    for seed, shift in enumerate((0.0, 0.2)):
        written(tmp_path / f"default-seed{seed}" / "eval", base, 2.0)
        written(tmp_path / f"react-seed{seed}" / "eval", [rate + shift for rate in base], 1.0 + shift)
    lines = strategies._table(tmp_path, ["default", "react"], 2).splitlines()
    assert lines[0] == "| | turns | untuned | default | react |"
    stops = next(line for line in lines if line.startswith("| stops"))
    cells = [cell.strip() for cell in stops.split("|")[2:-1]]
    assert cells[0] == "200"
    values = [float(number) for cell in cells[1:] for number in re.findall(r"^[\d.]+", cell)]
    assert values == [40.0, 40.0, 50.0]
    low, high = map(float, re.findall(r"Δ ([+-][\d.]+) to ([+-][\d.]+)", cells[3])[0])
    assert (low, high) == (0.0, 20.0)  # the seeds differ by 20 points, the conversations not at all
    loss = next(line for line in lines if line.startswith("| loss text"))
    assert "1.100" in loss
    assert "3.000" in loss


def test_where_every_turn_of_every_seed_succeeds_there_is_no_certainty(tmp_path: Path) -> None:
    written(tmp_path / "all", [1.0] * 12, 1.0)
    evaluations = [strategies.counts(tmp_path / "all")] * 2
    low, high = strategies._interval(evaluations, "stops", strategies._drawn(evaluations, "stops", 0))
    assert high == 1.0
    assert 0.7 < low < 0.8


def test_seeds_widen_the_interval(tmp_path: Path) -> None:
    flat = [0.5] * 12
    for seed, rate in enumerate((0.2, 0.5, 0.8)):
        written(tmp_path / str(seed), [rate] * 12, 1.0)
    written(tmp_path / "flat", flat, 1.0)
    spread = strategies._drawn([strategies.counts(tmp_path / str(seed)) for seed in range(3)], "stops", 0)
    none = strategies._drawn([strategies.counts(tmp_path / "flat")] * 3, "stops", 0)
    assert np.ptp(none) == pytest.approx(0)
    assert np.ptp(spread) == pytest.approx(0.6)
