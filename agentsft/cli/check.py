"""`agentsft check`: every row proven or refused, and counted."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agentsft.cli.display import console, printable, share, table
from agentsft.cli.lint import RowLint, Warnings, print_warnings
from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer
from agentsft.encode.parallel import prepare_compact
from agentsft.errors import UserError
from agentsft.lint.finding import check_kinds
from agentsft.types import LABELS, Example


@dataclass
class Totals:
    """What became of the rows of a data set: counts of rows, turns and tokens, and examples of each refusal."""

    rows: int = 0
    refused: int = 0
    cut: int = 0
    turns: int = 0
    lost_turns: int = 0
    tree: int = 0
    split: int = 0
    trained: int = 0
    lost_tokens: int = 0
    straddling: int = 0
    branched: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, example: Example, show: int = 3) -> None:
        """Count one example, keeping the first `show` lines of each reason."""
        self.rows += 1
        fault = example.refusal or example.lost
        self.refused += example.refusal is not None
        self.cut += example.refusal is None and example.lost is not None
        self.turns += example.turn_count or len(example.turns)
        self.lost_turns += example.lost_turns
        self.lost_tokens += example.lost_tokens
        self.straddling += example.straddling
        if example.tree is not None:
            self.tree += len(example.tree)
            self.split += example.split_tokens
            self.trained += len(example.tree.source)
            self.branched += not example.tree.is_chain
            for number, count in Counter(example.tree.label.tolist()).items():
                self.labels[LABELS[number]] += count
        if fault is not None:
            self.reasons[fault.reason] += 1
            if len(self.examples[fault.reason]) < show:
                where = "" if fault.message is None else f" message {fault.message}:"
                self.examples[fault.reason].append(f"{example.source}:{where} {fault.detail}")

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "rows": self.rows,
            "refused": self.refused,
            "cut": self.cut,
            "branched": self.branched,
            "turns": self.turns,
            "lost_turns": self.lost_turns,
            "tokens": {
                "tree": self.tree,
                "split": self.split,
                "trained": self.trained,
                "lost": self.lost_tokens,
                "straddling": self.straddling,
            },
            "labels": dict(self.labels.most_common()),
            "reasons": dict(self.reasons.most_common()),
            "examples": dict(self.examples),
        }


def run_check(
    config: DataConfig, output_format: str, show: int, strict: bool = False, ignored: Sequence[str] = ()
) -> int:
    """Check all rows and print the counts, and the warnings of kinds that are not `ignored`.

    Returns 1 if any row is refused, or if there is any warning and `strict` is set, else 0.
    """
    if output_format not in ("text", "json"):
        raise UserError(f"--format is text or json; not {output_format!r}.")
    check_kinds(ignored)
    preparer = load_preparer(config)
    totals = Totals()
    lint = RowLint(config, preparer, ignored, show)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("rows", total=None)
        for example in prepare_compact(config, preparer, rows=lint.rows()):
            totals.add(example, show)
            lint.add(example)
            progress.advance(task)
    warnings = lint.finish()
    if output_format == "json":
        found = {**totals.as_dict(), "warned": len(warnings.rows), "warnings": warnings.as_dict()}
        found["unread_fields"] = dict(warnings.unread.most_common())
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(totals, warnings)
        print_warnings(console(), warnings, strict)
    return 1 if totals.refused or (strict and warnings.rows) else 0


def _print(totals: Totals, warnings: Warnings) -> None:
    screen = console()
    good = totals.rows - totals.refused
    screen.print(
        table(
            "rows",
            ["", "count", "share"],
            [
                ("proven", good, share(good, totals.rows)),
                ("  of these branched", totals.branched, share(totals.branched, totals.rows)),
                ("  of these cut", totals.cut, share(totals.cut, totals.rows)),
                ("refused", totals.refused, share(totals.refused, totals.rows)),
                ("with warnings", len(warnings.rows), share(len(warnings.rows), totals.rows)),
                ("turns trained", totals.turns, ""),
                ("turns lost", totals.lost_turns, ""),
            ],
            right=(1, 2),
        )
    )
    screen.print(
        table(
            "\ntokens",
            ["", "count", "share"],
            [
                ("as trees", totals.tree, ""),
                ("as separate sequences", totals.split, f"{totals.split / totals.tree:.2f} x" if totals.tree else "-"),
                ("trained", totals.trained, share(totals.trained, totals.tree)),
                *((f"  {name}", count, share(count, totals.tree)) for name, count in totals.labels.most_common()),
                ("straddling two weights", totals.straddling, share(totals.straddling, totals.trained)),
            ],
            right=(1, 2),
        )
    )
    for reason, count in totals.reasons.most_common():
        screen.print(f"\n[bold red]{reason}[/]: {count} row{'s' if count > 1 else ''}")
        for line in totals.examples[reason]:
            screen.print("  " + printable(line), markup=False)
