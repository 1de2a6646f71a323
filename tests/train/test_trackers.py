"""Metrics reach each tracker's own local store, go on there after a resume, and never stop a run."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train import trackers
from agentsft.train.reporter import Silent, Summary
from agentsft.train.trackers import Tracked, check_trackers, scalars
from tests.report.folders import step_row

EVALUATION = {
    "step": 0, "epoch": 0.0, "eval_loss": 2.5, "eval_loss_by_label": {"action": 1.5}, "eval_items": 9, "seconds": 1.0,
}  # fmt: skip


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_step(self, row: dict[str, Any]) -> None:
        self.steps.append(row["step"])


def summary(start_step: int) -> Summary:
    return Summary(1, 1, 1, 1, 1, 8, start_step, 1, 1.0, 1, "cpu", "fp32", "tree", "sdpa", False, "full", 1, 1)


def run(config: TrainConfig, start: int = 0, stop: int = 5) -> Notes:
    """The steps after `start` up to `stop`, the first evaluation before them, as a run reports them."""
    PartialState(cpu=True)
    notes = Notes()
    with Tracked(config, notes) as reporter:
        reporter.on_start(summary(start))
        if not start:
            reporter.on_eval(EVALUATION)
        for step in range(start + 1, stop + 1):
            reporter.on_step(step_row(step, 8, seed=start))
    return notes


def expected(key: str) -> dict[int, float]:
    """A run of 5 steps, resumed after the third and ended after the eighth."""
    rows = [step_row(step, 8, seed=0) for step in range(1, 4)] + [step_row(step, 8, seed=3) for step in range(4, 9)]
    return {row["step"]: scalars(row, "train")[key] for row in rows}


def test_tensorboard_shows_a_resumed_run_as_one_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(output=str(tmp_path / "out"), report_to=["tensorboard"])
    assert [note for note in run(config).notes if "--logdir" in note]
    time.sleep(1.1)  # event files are read in the order of the seconds in their names
    run(config, start=3, stop=8)
    events = EventAccumulator(str(tmp_path / "out" / "runs"))
    events.Reload()
    assert set(scalars(step_row(1, 8), "train")) | set(scalars(EVALUATION, "eval")) <= set(events.Tags()["scalars"])
    for key in ("train/loss", "train/loss_by_label/action"):
        shown = {event.step: event.value for event in events.Scalars(key)}
        assert shown == pytest.approx(expected(key), rel=1e-6)
        assert len(events.Scalars(key)) == 8
    assert [(event.step, event.value) for event in events.Scalars("eval/loss_by_label/action")] == [(0, 1.5)]


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of wandb's own file: LevelDB's log format, blocks of 32 KiB behind a header of 7 bytes."""
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def finished_records(folder: Path, runs: int) -> list[Any]:
    """The records of `runs` runs, once the last of each is on the disk: wandb's own process writes them."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + 20
    while True:
        files = sorted(folder.glob("offline-run-*/*.wandb"))
        records = [Record.FromString(data) for file in files for data in wandb_records(file)]
        ends = [record for record in records if record.WhichOneof("record_type") == "exit"]
        if len(files) == len(ends) == runs or time.monotonic() > until:
            return records
        time.sleep(0.05)


def test_wandb_offline_holds_every_metric_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = TrainConfig(output=str(tmp_path / "out"), report_to=["wandb"], project="p", run_name="n")
    run(config)
    run(config, start=3, stop=8)
    records = finished_records(tmp_path / "out" / "wandb", 2)
    rows: list[dict[str, Any]] = []
    runs = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
        if record.WhichOneof("record_type") == "run":
            runs.append((record.run.project, record.run.display_name, record.run.run_id))
    assert {(project, name) for project, name, _ in runs} == {("p", "n")}
    assert len({identity for *_, identity in runs}) == 1
    for key in ("train/loss", "train/loss_by_label/action"):
        # Later rows of a step replace earlier ones: the axis is the run's own step.
        shown = {row["train/global_step"]: row[key] for row in rows if key in row}
        assert shown == pytest.approx(expected(key))
    assert [row["train/global_step"] for row in rows if "eval/loss" in row] == [0]


def test_trackio_keeps_a_resumed_run_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="the extra `trackio` is not installed")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    config = TrainConfig(output=str(tmp_path / "out"), report_to=["trackio"], project="p", run_name="n")
    assert any("trackio show" in note for note in run(config).notes)
    run(config, start=3, stop=8)
    storage = sqlite_storage.SQLiteStorage
    assert storage.get_runs("p") == ["n"]
    logs = storage.get_logs("p", "n")
    for key in ("train/loss", "train/loss_by_label/action"):
        shown = {log["step"]: log[key] for log in logs if key in log}
        assert shown == pytest.approx(expected(key))
    assert [log["step"] for log in logs if "eval/loss" in log] == [0]


def fails_at_start() -> trackers._Opened:
    raise ConnectionError("no route\nto host")


def fails_later() -> trackers._Opened:
    def log(values: dict[str, float], step: int) -> None:
        if step == 2:
            raise RuntimeError("connection lost")

    return None, log, "started"


def hangs() -> trackers._Opened:
    threading.Event().wait(60)
    raise AssertionError


@pytest.mark.parametrize(
    ("opened", "why"),
    [(fails_at_start, "no route to host"), (fails_later, "connection lost"), (hangs, "did not take the last rows")],
)
def test_a_tracker_that_is_not_reached_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[], trackers._Opened], why: str
) -> None:
    monkeypatch.setattr(trackers, "START_WAIT", 0.1)
    monkeypatch.setattr(trackers, "CLOSE_WAIT", 0.2)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setitem(trackers._OPEN, "wandb", lambda run: opened())
    notes = run(TrainConfig(output=str(tmp_path), report_to=["wandb"]))
    assert notes.steps == [1, 2, 3, 4, 5]
    assert [note.startswith("wandb: ") for note in notes.notes if why in note] == [True]
    assert len([note for note in notes.notes if "goes on without it" in note]) == 1


def test_a_tracker_that_fell_behind_is_said_once_and_gets_no_rows_behind_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_MOST_WAITING", 2)
    monkeypatch.setattr(trackers, "CLOSE_WAIT", 0.1)
    taken, answer, finishing, finish = (threading.Event() for _ in range(4))
    logged: list[int] = []

    class Slow:
        def finish(self) -> None:
            finishing.set()
            finish.wait(20)

    def log(values: dict[str, float], step: int) -> None:
        taken.set()
        answer.wait(20)
        logged.append(step)

    channel = trackers._Channel("wandb", lambda: (Slow(), log, "started"))
    channel.send({}, 1)
    assert taken.wait(20)
    for step in range(2, 9):  # two wait, the third is one too many
        channel.send({}, step)
    answer.set()
    assert finishing.wait(20)
    channel.send({}, 9)
    channel.close()
    finish.set()
    assert logged == [1]
    assert [note for note in channel.notes if note.startswith("wandb: ")] == [
        "wandb: has not answered for 2 rows. The run goes on without it; metrics.jsonl has all rows."
    ]


def test_wandb_without_a_login_is_said_once_and_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    wandb.teardown()  # it has read its settings in an earlier test
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    notes = run(TrainConfig(output=str(tmp_path / "out"), report_to=["wandb"]))
    assert notes.steps == [1, 2, 3, 4, 5]
    assert len(notes.notes) == 1
    assert "API key" in notes.notes[0]


def test_trackers_that_cannot_be_are_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match='Did you mean "wandb"'):
        check_trackers(["wandbb"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "agentsft\[trackio\]"'):
        Tracked(TrainConfig(report_to=["trackio"]), Silent())


def test_without_report_to_nothing_is_started_and_the_reporter_hears_all(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    notes = run(TrainConfig(output=str(tmp_path / "out")))
    assert (notes.steps, notes.notes) == ([1, 2, 3, 4, 5], [])
    assert not set(threading.enumerate()) - before
    assert not (tmp_path / "out").exists()


@given(
    st.dictionaries(
        st.sampled_from(["loss", "eval_loss", "mfu", "sources", "skipped", "loss_by_label", "step", "epoch"]),
        st.one_of(
            st.none(), st.floats(), st.integers(), st.text(), st.lists(st.text()),
            st.dictionaries(st.text(), st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))),
        ),
    )
)  # fmt: skip
def test_trackers_get_finite_numbers_alone(row: dict[str, Any]) -> None:
    found = scalars(row, "train")
    assert all(type(value) is float and math.isfinite(value) for value in found.values())
    assert found["train/skipped"] == ("skipped" in row)
    labels = row.get("loss_by_label")
    for label, value in labels.items() if isinstance(labels, dict) else ():
        assert found.get(f"train/loss_by_label/{label}") == value
