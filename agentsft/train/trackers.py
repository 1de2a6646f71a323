"""Metrics on their way to TensorBoard, Weights & Biases and trackio, through Accelerate's trackers.

No tracker holds up a step or ends a run: each has a thread of its own, and one that fails is said once and left out.
"""

from __future__ import annotations

import io
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentsft.config import TrainConfig
from agentsft.errors import UserError, nearest
from agentsft.recipe import dump_recipe
from agentsft.train.reporter import Reporter, Summary, TrainResult

TRACKERS = ("tensorboard", "wandb", "trackio")
IDENTITY = "trackers.json"
"""In the output folder: under which names the trackers know the run, so that a resumed one goes on there."""

START_WAIT, CLOSE_WAIT = 10.0, 60.0
"""Seconds that the run waits for its trackers to start, and for each to take its last rows."""

_MOST_WAITING = 100_000
_NOT_SENT = ("step", "sources", "non_finite")


def check_trackers(names: list[str]) -> None:
    """Raises UserError for a name that is no tracker, and for one whose package is absent."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"report_to is one of {', '.join(TRACKERS)}; not {name!r}.{nearest(name, TRACKERS)}")
        if find_spec(name) is None:
            raise UserError(f'report_to: {name} is not installed: pip install "agentsft[{name}]", or leave it out.')


def scalars(row: dict[str, Any], group: str) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl (`group` train) or evaluations.jsonl (eval), as trackers name them.

    `loss` is `train/loss`, the loss of a label `train/loss_by_label/action`; `eval_loss` is `eval/loss`. A step that
    was skipped has `train/skipped` 1. What is no finite number is left out.
    """
    flat: dict[str, float] = {}
    for key, value in row.items():
        name = f"{group}/{key.removeprefix('eval_')}"
        inner = value.items() if isinstance(value, dict) else ()
        for path, number in ((name, value), *((f"{name}/{label}", number) for label, number in inner)):
            if key not in _NOT_SENT and isinstance(number, (int, float)) and math.isfinite(number):
                flat[path] = float(number)
    return flat | ({"train/skipped": float("skipped" in row)} if group == "train" else {})


class Tracked:
    """A reporter that hands all it hears to `reporter`, and the metrics to the trackers that `config` names.

    A context manager: leaving it closes the trackers, however the run ended. They start with `on_start`, which is
    called on the main process alone. Raises UserError as `check_trackers` does.
    """

    def __init__(self, config: TrainConfig, reporter: Reporter) -> None:
        check_trackers(config.report_to)
        self._config, self._reporter = config, reporter
        self._channels: list[_Channel] = []

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, *_: object) -> None:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            for channel in self._channels:
                channel.close()
        self._say_notes()

    def on_start(self, summary: Summary) -> None:
        names = dict.fromkeys(self._config.report_to)
        if names:
            run = _Run(self._config, summary.start_step)
            # Their greetings would tear the reporter's display; what matters is in the notes.
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                self._channels = [_Channel(name, partial(_OPEN[name], run)) for name in names]
                until = time.monotonic() + START_WAIT
                for channel in self._channels:
                    channel.started.wait(max(0.0, until - time.monotonic()))
            self._say_notes()
        self._reporter.on_start(summary)

    def on_step(self, row: dict[str, Any]) -> None:
        self._send(row, "train")
        self._reporter.on_step(row)

    def on_eval(self, row: dict[str, Any]) -> None:
        self._send(row, "eval")
        self._reporter.on_eval(row)

    def on_save(self, path: str) -> None:
        self._reporter.on_save(path)

    def on_note(self, text: str) -> None:
        self._reporter.on_note(text)

    def on_end(self, result: TrainResult) -> None:
        self._reporter.on_end(result)

    def _send(self, row: dict[str, Any], group: str) -> None:
        for channel in self._channels:
            channel.send(scalars(row, group), row["step"])
        self._say_notes()

    def _say_notes(self) -> None:
        for channel in self._channels:
            while channel.notes:
                self._reporter.on_note(channel.notes.pop(0))


class _Run:
    """What the trackers are told of a run, and the names under which they know it."""

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        self.config, self.start_step = config, start_step
        self.output = Path(config.output)
        self.name = config.run_name or self.output.resolve().name
        self.identity: dict[str, str] = {}
        self._lock = threading.Lock()
        if start_step:
            try:
                self.identity = dict(json.loads((self.output / IDENTITY).read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                self.identity = {}

    def remember(self, tracker: str, name: str) -> None:
        with self._lock:
            self.identity[tracker] = name
            self.output.mkdir(parents=True, exist_ok=True)
            (self.output / IDENTITY).write_text(json.dumps(self.identity), encoding="utf-8")

    def project(self, variable: str) -> str:
        return self.config.project or os.environ.get(variable) or "agentsft"

    def settings(self) -> dict[str, Any]:
        return dict(vars(self.config))


class _Channel:
    """One tracker and its thread. Rows wait in a queue, so that no step waits for a disk or a network."""

    def __init__(self, name: str, open_tracker: Callable[[], _Opened]) -> None:
        self.name, self._open = name, open_tracker
        self.notes: list[str] = []
        self.started = threading.Event()
        self._failed = False
        self._rows: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def send(self, values: dict[str, float], step: int) -> None:
        if self._failed:
            return
        try:
            self._rows.put_nowait((values, step))
        except queue.Full:
            self._fail(f"has not answered for {_MOST_WAITING:,} rows")

    def close(self) -> None:
        """Waits until the tracker has taken all rows, CLOSE_WAIT seconds at most."""
        try:
            self._rows.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_WAIT)
        if self._thread.is_alive() and not self._failed:
            self._fail(f"did not take the last rows in {CLOSE_WAIT:.0f} s")

    def _work(self) -> None:
        try:
            tracker, log, note = self._open()
            self.notes.append(note)
            self.started.set()
            while (row := self._rows.get()) is not None and not self._failed:
                log(*row)
            tracker.finish()
        except (Exception, SystemExit) as error:  # a tracker raises what it likes, and none of it may end the run
            self._fail(" ".join(str(error).split())[:300] or type(error).__name__)
        self.started.set()

    def _fail(self, why: str) -> None:
        self._failed = True
        self.notes.append(f"{self.name}: {why.rstrip('.')}. The run goes on without it; metrics.jsonl has all rows.")


_Opened = tuple[Any, Callable[[dict[str, float], int], None], str]
"""A started tracker of Accelerate's, what sends it a row at a step, and where a person finds it."""


def _tensorboard(run: _Run) -> _Opened:
    from accelerate.tracking import TensorBoardTracker

    # Of an earlier run in the same folder, what came after the step that this one goes on from is not shown any more.
    first = run.start_step + 1 if run.start_step else 0
    tracker = TensorBoardTracker("runs", run.output, purge_step=first)
    tracker.start()
    recipe = "".join(f"    {line}\n" for line in dump_recipe(run.config).splitlines())
    tracker.tracker.add_text("recipe", recipe, global_step=run.start_step)
    return tracker, tracker.log, f"tensorboard --logdir {run.output / 'runs'}"


def _wandb(run: _Run) -> _Opened:
    import wandb
    from accelerate.tracking import WandBTracker

    wanted = {"silent": True, "console": "off", "init_timeout": 60.0, "finish_timeout": CLOSE_WAIT - 5}
    settings = wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})
    known = run.identity.get("wandb")
    tracker = WandBTracker(
        run.project("WANDB_PROJECT"),
        id=known,
        resume="allow" if known else None,
        config=run.settings(),
        name=run.config.run_name or os.environ.get("WANDB_NAME") or run.name,
        dir=os.environ.get("WANDB_DIR") or str(run.output),
        settings=settings,
    )
    run.output.mkdir(parents=True, exist_ok=True)
    tracker.start()
    made = tracker.tracker
    run.remember("wandb", made.id)
    # Its own step counts calls and cannot go back; this one is the run's, as Transformers logs it.
    made.define_metric("train/global_step")
    made.define_metric("*", step_metric="train/global_step", step_sync=True)

    def log(values: dict[str, float], step: int) -> None:
        tracker.log({**values, "train/global_step": step})

    return tracker, log, f"wandb: {made.url or made.dir}"


def _trackio(run: _Run) -> _Opened:
    from accelerate.tracking import TrackioTracker

    known, project = run.identity.get("trackio"), run.project("TRACKIO_PROJECT")
    tracker = TrackioTracker(
        project, name=known or run.name, resume="allow" if known else "never", config=run.settings(), embed=False
    )
    tracker.start()
    run.remember("trackio", tracker.tracker.name)
    return tracker, tracker.log, f'trackio show --project "{project}"'


_OPEN: dict[str, Callable[[_Run], _Opened]] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
