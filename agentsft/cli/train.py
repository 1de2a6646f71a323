"""`agentsft train`: prepare, say what will happen, train, say what happened."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agentsft.cli.display import console, printable, table
from agentsft.config import TrainConfig
from agentsft.encode.load import load_preparer
from agentsft.job import carry_out, check_run, is_main
from agentsft.train.dataset import Dataset, load_dataset
from agentsft.train.interrupt import AtOnce, Interrupted
from agentsft.train.reporter import Reporter, Silent, Summary, TrainResult


def run_train(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit code: 128 + the signal where one ended the run."""
    try:
        with AtOnce():
            return _run(config)
    except Interrupted as stopped:
        if not stopped.said and is_main():
            then = "--resume goes on from the newest checkpoint, if there is one"
            print(f"agentsft: stopped by {stopped.name}; {then}.", file=sys.stderr)
        return stopped.code


def _run(config: TrainConfig) -> int:
    screen = console()
    ranking = check_run(config)
    preparer = load_preparer(config)
    dataset = _prepare(config, preparer, screen if is_main() else None)
    if is_main():
        _print_ledger(screen, dataset)
    reporter = make_reporter(screen) if is_main() else Silent()
    try:
        carry_out(config, preparer, dataset, ranking, reporter)
    finally:
        if isinstance(reporter, LiveReporter):
            reporter.live.stop()  # gives the terminal its cursor back
    return 0


def make_reporter(screen: Console) -> Reporter:
    """A live display in a terminal, plain lines elsewhere."""
    return LiveReporter(screen) if screen.is_terminal else PlainReporter(screen)


def _prepare(config: TrainConfig, preparer: Any, screen: Console | None) -> Dataset:
    if screen is None:
        return load_dataset(config, preparer)
    started = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("preparing"), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("rows", total=None)
        dataset = load_dataset(config, preparer, lambda n: progress.advance(task, n))
    seconds = time.perf_counter() - started
    screen.print(f"prepared {dataset.ledger.rows} rows in {seconds:.1f} s")
    return dataset


def _print_ledger(screen: Console, dataset: Dataset) -> None:
    if dataset.held_out_ledger.entries:
        reasons = ", ".join(f"{reason} {count}" for reason, count, *_ in dataset.held_out_ledger.by_reason())
        screen.print(Text(f"held-out rows left out in part or whole: {reasons}; see agentsft check", "yellow"))
    for line in _repetitions(dataset):
        screen.print(Text(line, "yellow"))
    if not dataset.ledger.entries:
        screen.print("every row is trained in full")
        return
    rows = dataset.ledger.by_reason()
    screen.print(table("not trained in full", ["reason", "rows", "turns lost", "tokens lost"], rows, right=(1, 2, 3)))
    first = {entry["reason"]: entry for entry in reversed(dataset.ledger.entries)}
    for entry in list(first.values())[::-1]:
        where = "" if entry["message"] is None else f" message {entry['message']}:"
        screen.print(Text(printable(f"  {entry['source']}:{where} {entry['detail']}")))
    screen.print("  all of them: ledger.jsonl")


def _repetitions(dataset: Dataset) -> list[str]:
    """Rows that are there twice; they are trained all the same."""
    lines = []
    if kinds := Counter(duplicate.kind for duplicate in dataset.ledger.repeated()):
        found = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        lines.append(f"rows that repeat an earlier one, trained all the same: {found}; see duplicates.jsonl")
    if shared := dataset.trained_and_held_out:
        lines.append(f"held-out rows that are trained too: {shared}; their loss says little about new conversations")
    return lines


class PlainReporter:
    """Lines for logs and pipes: every step of a short run, a hundred lines of a long one."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self.steps = self.every = 1

    def on_start(self, summary: Summary) -> None:
        self.steps = summary.steps
        self.every = max(1, summary.steps // 100)
        self.screen.print(_summary_table(summary))

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] % self.every == 0 or row["step"] == self.steps or row.get("skipped"):
            self.screen.print(f"step {row['step']}/{self.steps}  {_step_text(row)}", soft_wrap=True)

    def on_eval(self, row: dict[str, Any]) -> None:
        self.screen.print(_eval_text(row), soft_wrap=True)

    def on_save(self, path: str) -> None:
        self.screen.print(f"saved {path}", soft_wrap=True)

    def on_note(self, text: str) -> None:
        self.screen.print(Text(text, "yellow"), soft_wrap=True)

    def on_end(self, result: TrainResult) -> None:
        self.screen.print(_end_text(result), soft_wrap=True)


class LiveReporter(PlainReporter):
    """A progress bar, the last step's figures and the loss of each label, kept in place in a terminal."""

    def __init__(self, screen: Console) -> None:
        super().__init__(screen)
        self.progress = Progress(
            TextColumn("[bold]step"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(),
            console=screen, expand=True,
        )  # fmt: skip
        self.live = Live(console=screen, refresh_per_second=4, transient=False)
        self.task = self.progress.add_task("train", total=None)

    def on_start(self, summary: Summary) -> None:
        super().on_start(summary)
        self.progress.update(self.task, total=summary.steps, completed=summary.start_step)
        self.live.start()
        self.live.update(Group(self.progress))

    def on_step(self, row: dict[str, Any]) -> None:
        self.progress.update(self.task, completed=row["step"])
        self.live.update(Group(self.progress, Text(_step_text(row)), _labels_text(row)))

    def on_end(self, result: TrainResult) -> None:
        self.live.stop()
        super().on_end(result)


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _step_text(row: dict[str, Any]) -> str:
    parts = [
        f"loss {_number(row['loss'])}",
        f"lr {row['learning_rate']:.2e}",
        f"grad {_number(row['grad_norm'], '.3f')}",
        f"{row['tokens_per_second']:,.0f} tokens/s",
    ]
    if row.get("mfu") is not None:
        parts.append(f"mfu {row['mfu']:.1%}")
    if row.get("memory_gib") is not None:
        parts.append(f"{row['memory_gib']:.1f} GiB")
    if row.get("skipped"):
        parts.append(f"skipped: {row['skipped']}")
    return "  ".join(parts)


def _labels_text(row: dict[str, Any]) -> Text:
    text = Text("by label  ", "dim")
    for label, loss in row["loss_by_label"].items():
        text.append(f"{label} ", "cyan").append(f"{_number(loss, '.3f')}  ")
    return text


def _eval_text(row: dict[str, Any]) -> Text:
    text = Text(f"held out, after step {row['step']}: loss {_number(row['eval_loss'])}", "bold")
    for label, loss in row.get("eval_loss_by_label", {}).items():
        text.append(f"  {label} {_number(loss, '.3f')}", "not bold")
    return text


def _end_text(result: TrainResult) -> Text:
    text = Text(f"{result.steps} steps in {result.seconds:.0f} s")
    if result.initial_eval_loss is not None and result.eval_loss is not None:
        text.append(f"; held-out loss {result.initial_eval_loss:.4f} -> {result.eval_loss:.4f}", "bold")
    if result.skipped_steps:
        text.append(f"; {result.skipped_steps} steps skipped: their rows are in ledger.jsonl", "red")
    return text.append(f"; model in {result.output}")


def _summary_table(summary: Summary) -> Table:
    tokens = summary.tokens
    parameters = f"{summary.trainable_parameters:,} of {summary.parameters:,} ({summary.tuner})"
    rows = [
        ("conversations", f"{summary.conversations:,}, held out {summary.eval_conversations:,}"),
        (
            "tokens an epoch",
            f"{tokens:,}: {summary.trained_tokens:,} trained, {summary.untrained_tokens:,} not, "
            f"{summary.saved_tokens:,} saved by sharing"
            + (f"; {1 - summary.computed_share:.0%} shared by conversations" if summary.computed_share < 0.995 else ""),
        ),
        (
            "steps",
            f"{summary.steps:,} of {summary.batch_size} conversations, about {summary.micro_batches_per_step:.1f} "
            f"micro-batches each on {summary.world_size} process{'es' if summary.world_size > 1 else ''}"
            + (f"; goes on after step {summary.start_step}" if summary.start_step else ""),
        ),
        ("parameters trained", parameters),
        (
            "runs on",
            f"{summary.device}, {summary.precision}, layout {summary.layout}, attention {summary.attention}"
            + (", compiled" if summary.compiled else ""),
        ),
    ]
    made = table("", ["", ""], rows)
    made.show_header = False
    return made
