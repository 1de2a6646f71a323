"""What is not trained, and why: ledger.jsonl, its totals, and the budget that stops a run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsft.errors import UserError
from agentsft.types import Example


@dataclass
class Ledger:
    """One entry for each row that is not trained in full, and the counts of all rows."""

    rows: int = 0
    trained_tokens: int = 0
    lost_tokens: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, example: Example) -> None:
        """Count an example, and enter it if anything of it is lost."""
        self.rows += 1
        self.trained_tokens += 0 if example.tree is None else len(example.tree.source)
        self.lost_tokens += example.lost_tokens
        fault = example.refusal or example.lost
        if fault is None:
            return
        turns = example.lost_turns
        if example.refusal is not None and not turns and example.conversation is not None:
            turns = sum(message.role == "assistant" for message in example.conversation.messages)
        self.entries.append(
            {
                "row": example.index,
                "source": example.source,
                "refused": example.refusal is not None,
                "reason": fault.reason,
                "message": fault.message,
                "detail": fault.detail,
                "turns_lost": turns,
                "tokens_lost": example.lost_tokens,
            }
        )

    @property
    def refused(self) -> int:
        """Rows of which nothing is trained."""
        return sum(entry["refused"] for entry in self.entries)

    def by_reason(self) -> list[tuple[str, int, int, int]]:
        """(reason, rows, turns lost, tokens lost), the most frequent reason first."""
        rows: Counter[str] = Counter(entry["reason"] for entry in self.entries)
        of = {reason: [entry for entry in self.entries if entry["reason"] == reason] for reason in rows}
        return [
            (reason, count, sum(e["turns_lost"] for e in of[reason]), sum(e["tokens_lost"] for e in of[reason]))
            for reason, count in rows.most_common()
        ]

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

    def write(self, folder: Path) -> None:
        """ledger.jsonl in `folder`, one object a row that is not trained in full."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries)
        (folder / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
