"""What is not trained, and why: ledger.jsonl, its totals, and the budget that stops a run; and what is there twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentsft.encode.examples import Examples
from agentsft.errors import UserError
from agentsft.lint.duplicates import Duplicate, Duplicates
from agentsft.types import Example


@dataclass
class Ledger:
    """One entry for each row that is not trained in full, and the counts of all rows."""

    rows: int = 0
    trained_tokens: int = 0
    lost_tokens: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)
    duplicates: Duplicates = field(default_factory=Duplicates)

    def add_all(self, examples: Examples) -> None:
        """Count the examples of a run or a share of it, and enter those of which anything is lost."""
        self.rows += len(examples)
        self.duplicates.add_all(examples)
        self.trained_tokens += int(examples.column("target_count").sum())
        self.lost_tokens += int(examples.column("lost_tokens").sum())
        for example in examples.faulty():
            self._enter(example)

    def add(self, example: Example) -> None:
        """Count an example, and enter it if anything of it is lost."""
        self.rows += 1
        self.duplicates.add(example)
        self.trained_tokens += 0 if example.tree is None else len(example.tree.source)
        self.lost_tokens += example.lost_tokens
        self._enter(example)

    def _enter(self, example: Example) -> None:
        fault = example.refusal or example.lost
        if fault is None:
            return
        self.entries.append(
            {
                "row": example.index,
                "source": example.source,
                "refused": example.refusal is not None,
                "reason": fault.reason,
                "message": fault.message,
                "detail": fault.detail,
                "turns_lost": example.lost_turns,
                "tokens_lost": example.lost_tokens,
            }
        )

    @property
    def refused(self) -> int:
        """Rows of which nothing is trained."""
        return sum(entry["refused"] for entry in self.entries)

    def by_reason(self) -> list[tuple[str, int, int, int]]:
        """(reason, rows, turns lost, tokens lost), the most frequent reason first."""
        rows: Counter[str] = Counter()
        turns: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for entry in self.entries:
            rows[entry["reason"]] += 1
            turns[entry["reason"]] += entry["turns_lost"]
            tokens[entry["reason"]] += entry["tokens_lost"]
        return [(reason, count, turns[reason], tokens[reason]) for reason, count in rows.most_common()]

    def enforce(self, max_lost: float) -> None:
        """Raise UserError when more than `max_lost` of the rows or of the trained tokens is lost."""
        rows = self.refused / self.rows if self.rows else 0.0
        tokens = self.lost_tokens / max(self.trained_tokens + self.lost_tokens, 1)
        if max(rows, tokens) > max_lost:
            worst = ", ".join(f"{reason} {count}" for reason, count, *_ in self.by_reason()[:3])
            raise UserError(
                f"{rows:.1%} of the rows and {tokens:.1%} of the trained tokens are lost ({worst}), more than "
                f"max_lost {max_lost:g}: see ledger.jsonl, mend the data or raise max_lost."
            )

    def repeated(self) -> list[Duplicate]:
        """The rows that have the tokens or the id of an earlier one. They are trained like all others."""
        return list(self.duplicates.found())

    def write(self, folder: Path) -> None:
        """In `folder`, ledger.jsonl with one object a row that is not trained in full, and duplicates.jsonl with one a
        row that repeats an earlier one (no file where there is none).
        """
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / "ledger.jsonl", self.entries)
        repeated = [asdict(duplicate) for duplicate in self.repeated()]
        if repeated:
            _write_lines(folder / "duplicates.jsonl", repeated)
        else:
            (folder / "duplicates.jsonl").unlink(missing_ok=True)  # an earlier run's


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
