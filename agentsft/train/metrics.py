"""metrics.jsonl, one object per optimizer step, and evaluations.jsonl, one per evaluation."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from agentsft.types import LABELS


class MetricsFile:
    """Appends rows to `path`, each at once on its way to the disk. Without a path it drops them."""

    def __init__(self, path: Path | None, keep_until: int = 0) -> None:
        """Keeps the rows of an earlier run whose step is at most `keep_until`, drops the others."""
        self.kept: list[dict[str, Any]] = []
        self._file = None
        if path is None:
            return
        if keep_until and path.exists():
            self.kept = [row for row in map(_row, path.read_text(encoding="utf-8").splitlines()) if row]
            self.kept = [row for row in self.kept if row["step"] <= keep_until]
        aside = path.with_name(path.name + ".tmp")
        aside.write_text("".join(json.dumps(row) + "\n" for row in self.kept), encoding="utf-8")
        os.replace(aside, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _row(line: str) -> dict[str, Any] | None:
    """The row on `line`; None for the half of a line that a killed process leaves."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def loss_by_label(nll: list[float], counts: np.ndarray) -> dict[str, float | None]:
    """Mean unweighted loss of each label that occurs, from the sums and counts by label."""
    return {label: finite(nll[i] / int(counts[i])) for i, label in enumerate(LABELS) if counts[i]}
