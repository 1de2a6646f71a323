"""Run folders are read as they are: whole, cut short, or still being written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.errors import UserError
from agentsft.report.charts import running_mean, thin
from agentsft.report.figures import figures, ledger_table, settings_that_differ, skipped_table
from agentsft.report.read import read_run, read_runs
from tests.report.folders import run_folder, step_row, write_lines


@settings(deadline=None)
@given(cut=st.integers(0, 5000))
def test_metrics_cut_at_any_byte_give_the_whole_rows_before(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    whole = "".join(json.dumps(step_row(step, 10)) + "\n" for step in range(1, 11)).encode()
    (folder / "metrics.jsonl").write_bytes(whole[:cut])
    run = read_run(folder)
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]  # the last line needs no line break
    assert [row["step"] for row in run.steps] == list(range(1, sum(end <= cut for end in ends) + 1))
    assert not run.finished
    assert figures(run)


def test_a_step_written_twice_counts_once_as_it_was_written_last(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", steps=4)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step_row(3, 4, loss=7.0)) + "\n[1]\nnull\n\n")
    run = read_run(folder)
    assert [row["step"] for row in run.steps] == [1, 2, 3, 4]
    assert run.steps[2]["loss"] == 7.0
    assert run.unread == {"metrics.jsonl": 2}


def test_what_is_no_run_is_refused_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        read_run(tmp_path)
    folder = run_folder(tmp_path / "run")
    with pytest.raises(UserError, match="named twice"):
        read_runs([folder, tmp_path / "." / "run"])


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    paths = [run_folder(tmp_path / parent / "out", steps=1) for parent in ("a", "b")]
    assert [run.name for run in read_runs(paths)] == ["a/out", "b/out"]


def test_a_run_is_finished_when_its_steps_are_done_and_its_model_is_written(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", steps=4)
    assert read_run(folder).finished
    (folder / "config.json").unlink()
    assert not read_run(folder).finished
    assert read_run(run_folder(tmp_path / "b", steps=4, max_steps=4)).finished
    assert not read_run(run_folder(tmp_path / "c", steps=4, max_steps=5)).finished
    assert not read_run(run_folder(tmp_path / "d", steps=4, num_train_epochs=2)).finished


def test_only_settings_that_differ_are_compared_and_places_are_none(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", loss_scale="react", learning_rate=1e-4)
    other = run_folder(tmp_path / "b", loss_scale="default", learning_rate=1e-4)
    assert settings_that_differ(read_runs([one, other])) == [("loss_scale", ["react", "default"])]


def test_the_ledger_is_summed_by_reason_and_skipped_steps_name_the_rows_at_fault(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", steps=3)
    entry = {"source": "f:1", "refused": True, "reason": "too_long", "detail": "x", "turns_lost": 2, "tokens_lost": 5}
    write_lines(folder / "ledger.jsonl", [entry, {**entry, "refused": False}, {**entry, "reason": "malformed"}])
    skipped = step_row(2, 3, loss=None, skipped="non-finite gradient", sources=["f:1", "f:2"], non_finite=["f:2"])
    write_lines(folder / "metrics.jsonl", [step_row(1, 3), skipped, step_row(3, 3)])
    run = read_run(folder)
    assert [row[:5] for row in ledger_table(run)] == [("too_long", 2, 1, 4, 10), ("malformed", 1, 1, 2, 5)]
    assert skipped_table(run) == [(2, "non-finite gradient", "f:2")]
    assert next(figure.value for figure in figures(run) if figure.name == "steps skipped") == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(0, 20), st.integers(1, 50))
def test_thinning_and_smoothing_stay_within_what_they_average(found: list[float], window: int, size: int) -> None:
    mean = running_mean(found, window)
    assert len(mean) == len(found)
    for k, value in enumerate(mean):
        around = found[max(0, k - window) : k + window + 1]
        assert min(around) - 1e-3 <= value <= max(around) + 1e-3
    points = thin(list(enumerate(found, 1)), size)
    assert [step for step, _ in points[:-1]] == list(range(size, len(found), size))
    assert points[-1][0] == len(found)
    assert min(found) - 1e-3 <= min(value for _, value in points)
    assert max(value for _, value in points) <= max(found) + 1e-3
