"""Warnings of `agentsft check`: counted over all rows, with examples of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from agentsft.cli.display import printable
from agentsft.config import DataConfig
from agentsft.data.read import folded
from agentsft.encode.load import load_rows
from agentsft.encode.prepare import Preparer
from agentsft.lint.duplicates import Duplicates
from agentsft.lint.finding import KINDS, Finding
from agentsft.lint.linter import Linter
from agentsft.types import Example, Row


@dataclass
class Warnings:
    """Counts and first examples of the findings, those of kinds in `ignored` left out."""

    ignored: frozenset[str] = frozenset()
    show: int = 3
    rows: set[int] = field(default_factory=set)
    findings: Counter[str] = field(default_factory=Counter)
    rows_of: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    unread: Counter[str] = field(default_factory=Counter)
    """Fields of messages that hold something and that nothing reads, by how many messages have them."""

    def add(self, row: int, source: str, findings: Iterable[Finding]) -> None:
        """Count findings of a row; of each kind, one row gives one example."""
        kinds: set[str] = set()
        for finding in findings:
            if finding.kind in self.ignored:
                continue
            self.findings[finding.kind] += 1
            if finding.kind not in kinds and len(self.examples[finding.kind]) < self.show:
                self.examples[finding.kind].append(
                    {
                        "source": source,
                        "message": finding.message,
                        "detail": finding.detail,
                        "excerpt": finding.excerpt,
                    }
                )
            kinds.add(finding.kind)
        self.rows_of.update(kinds)
        self.rows |= {row} if kinds else set()

    def as_dict(self) -> dict[str, Any]:
        """JSON values: kind -> its number of findings and of rows, and examples; the most frequent kind first."""
        return {
            kind: {"findings": self.findings[kind], "rows": rows, "examples": self.examples[kind]}
            for kind, rows in self.rows_of.most_common()
        }


class RowLint:
    """Looks at the rows beside their preparation, as they stand in the files: not folded into an agent format."""

    def __init__(self, config: DataConfig, preparer: Preparer, ignored: Iterable[str], show: int) -> None:
        self.warnings = Warnings(frozenset(ignored), show)
        self._config = config
        self._linter = Linter(preparer.loss_scale, preparer.mask_history)
        self._under_way: deque[Row] = deque()
        self._duplicates = Duplicates()

    def rows(self) -> Iterator[Row]:
        """The rows to prepare, in the order in which their examples are to be added."""
        as_it_stands = replace(self._config, agent_format=None, reasoning="keep")
        for row in load_rows(as_it_stands, unread=self.warnings.unread):
            self._under_way.append(row)
            yield folded(row, self._config.reasoning, self._config.agent_format)

    def add(self, example: Example) -> None:
        """Look at the next row, of which preparation made this example."""
        row = self._under_way.popleft()
        self._duplicates.add(example, row.conversation)
        if row.conversation is not None:
            self.warnings.add(row.index, row.source, self._linter.row(row.conversation))

    def finish(self) -> Warnings:
        """The warnings of all rows, duplicates among them."""
        for duplicate in self._duplicates.found():
            finding = Finding(duplicate.kind, None, f"{duplicate.detail} {duplicate.first}")
            self.warnings.add(duplicate.row, duplicate.source, [finding])
        return self.warnings


def print_warnings(screen: Console, warnings: Warnings, strict: bool) -> None:
    """Each kind with what it means, how often it was found, and its examples."""
    style = "bold red" if strict else "bold yellow"
    for kind, rows in warnings.rows_of.most_common():
        count = warnings.findings[kind]
        times = f", {count:,} times" if count > rows else ""
        screen.print(f"\n[{style}]{kind}[/]: {rows:,} row{'s' if rows > 1 else ''}{times}")
        screen.print(_indented(KINDS[kind], 2, "dim"))
        for example in warnings.examples[kind]:
            where = "" if example["message"] is None else f" message {example['message']}:"
            screen.print(_indented(f"{example['source']}:{where} {example['detail']}", 2))
            if example["excerpt"]:
                screen.print(_indented(example["excerpt"], 6, "dim"), no_wrap=True, overflow="ellipsis")
    if warnings.unread:
        names = ", ".join(f"{name} {count:,}" for name, count in warnings.unread.most_common(8))
        screen.print()
        screen.print(Text(printable(f"fields that nothing reads, with the number of messages: {names}")))
    if warnings.rows and not strict:
        screen.print("\nWarnings do not fail the check: --strict makes them, --ignore KIND leaves a kind out.")


def _indented(text: str, columns: int, style: str = "") -> Padding:
    return Padding(Text(printable(text), style), (0, 0, 0, columns), expand=False)
