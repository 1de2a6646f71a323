"""`agentsft eval`: what a model does at the turns of held-out conversations."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from agentsft.cli.display import console, printable, table
from agentsft.errors import UserError
from agentsft.evaluate.judge import METRICS
from agentsft.evaluate.run import evaluate
from agentsft.evaluate.settings import EvalConfig
from agentsft.train.interrupt import AtOnce, Interrupted

_STAGES = {"rows": "preparing rows", "loss": "loss, conversations", "answers": "answers, turns"}


def run_eval(config: EvalConfig, output_format: str) -> int:
    """Evaluate and print a table or one JSON object. Returns the exit code: 128 + the signal where one came."""
    if output_format not in ("text", "json"):
        raise UserError(f"--format is text or json; not {output_format!r}.")
    try:
        with AtOnce(), _Bar() as bar:
            summary = evaluate(config, bar)
    except Interrupted as stopped:
        print(f"agentsft: stopped by {stopped.name}; --resume goes on from the answers so far.", file=sys.stderr)
        return stopped.code
    if output_format == "json":
        print(json.dumps(summary, ensure_ascii=False, allow_nan=False))
    else:
        _print(summary)
    return 0


class _Bar:
    """A progress bar and notes on stderr: stdout holds the result alone."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console(stderr=True), transient=True)
        self._task: Any = None

    def __enter__(self) -> _Bar:
        from transformers.utils import logging

        self._bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # of loading, which would break this one
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        self._progress.stop()
        if self._bars:
            logging.enable_progress_bar()

    def on_stage(self, stage: str, total: int | None, done: int = 0) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(_STAGES[stage], total=total, completed=done)

    def on_advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def on_note(self, text: str) -> None:
        if self._progress.console.quiet:  # a pipe
            print(f"note: {printable(text)}", file=sys.stderr)
        else:
            self._progress.console.print(Text(printable(text), "yellow"))


def _print(summary: dict[str, Any]) -> None:
    screen = console()
    screen.print(f"{summary['turns']} turns of {summary['conversations']} conversations, in the contexts of serving")
    losses = [("all, weighted as in training", summary["loss"]), *summary["loss_by_label"].items()]
    rows = [(name, _loss(found["value"]), _range(found, _loss), f"{found['count']:,}") for name, found in losses]
    screen.print(table("\nloss", ["tokens that are", "mean", "95% interval", "tokens"], rows, right=(1, 2, 3)))
    if "metrics" in summary:
        applied = {name: found for name, found in summary["metrics"].items() if found["count"]}
        judged = [
            (name, _share(found["value"]), _range(found, _share), f"{found['count']:,}", METRICS[name])
            for name, found in applied.items()
        ]
        columns = ["", "share", "95% interval", "turns", "true where the response"]
        screen.print(table("\nanswers, sampled greedily", columns, judged, right=(1, 2, 3)))
        if missing := [name for name in METRICS if name not in applied]:
            screen.print(f"does not apply to any turn: {', '.join(missing)}")
        answered = summary["answered"]
        screen.print(f"\nanswered {answered['turns']} turns now, in {answered['seconds']:.0f} s")
    found = "results.jsonl" if "metrics" in summary else "conversations.jsonl"
    screen.print(Text(printable(f"intervals are over conversations; all of them: {summary['output']}/{found}")))


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _range(found: dict[str, Any], form: Any) -> str:
    return "-" if found["low"] is None else f"{form(found['low'])} to {form(found['high'])}"
