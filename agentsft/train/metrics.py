"""metrics.jsonl, one object per optimizer step, and evaluations.jsonl, one per evaluation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentsft.errors import UserError
from agentsft.types import LABELS


class RowsFile:
    """Appends rows to the JSONL file `path`, each at once on its way to the disk. Without a path it drops them.

    What cannot be written stops nothing: it is said once, kept, and tried again with the next row.
    """

    def __init__(
        self,
        path: Path | None,
        keep: Callable[[dict[str, Any]], bool],
        note: Callable[[str], None],
        also: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Keeps the rows of the file that `keep` wants, drops the others, and adds `also`.

        Raises UserError where the file cannot be written at all, since nothing is lost yet.
        """
        self.kept: list[dict[str, Any]] = []
        self._path, self._note = path, note
        self._waiting, self._said = b"", False
        if path is None:
            return
        aside = path.with_name(path.name + ".tmp")
        try:
            lines = path.read_bytes().splitlines() if path.exists() else []
            rows = [(line, row) for line in lines if (row := _row(line)) is not None and keep(row)]
            self.kept = [row for _, row in rows]
            aside.write_bytes(b"".join(line + b"\n" for line, _ in rows) + b"".join(map(_line, also)))
            os.replace(aside, path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error}); make room, or name another output.") from None

    def write(self, row: dict[str, Any]) -> None:
        if self._path is not None:
            self._waiting += _line(row)
            self._flush()

    def close(self) -> None:
        if self._path is None:
            return
        self._flush()
        os.close(self._file)
        if self._waiting:
            self._note(f"{self._path.name} lacks its last {self._waiting.count(10)} rows.")
        self._path = None

    def _flush(self) -> None:
        try:
            while self._waiting:  # half a line that a full disk took is completed later
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            if not self._said:
                self._note(f"{self._path} cannot be written ({error}); its rows wait in memory and the run goes on.")
            self._said = True
        else:
            self._said = False


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _row(line: bytes) -> dict[str, Any] | None:
    """The row on `line`; None for the half of a line that a killed process leaves."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def until(step: int) -> Callable[[dict[str, Any]], bool]:
    """Whether a row belongs to the first `step` steps of a run; none does where it starts afresh."""
    return lambda row: step > 0 and isinstance(row.get("step"), int) and row["step"] <= step


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def loss_by_label(nll: Sequence[float] | np.ndarray, counts: np.ndarray) -> dict[str, float | None]:
    """Mean unweighted loss of each label that occurs, from the sums and counts by label."""
    return {label: finite(float(nll[i]) / int(counts[i])) for i, label in enumerate(LABELS) if counts[i]}
