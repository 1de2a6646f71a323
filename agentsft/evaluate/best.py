"""Which evaluation of a run is the best so far, and whether it has been the best for too long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from agentsft.errors import UserError, nearest
from agentsft.evaluate.judge import METRICS
from agentsft.types import LABELS

FIGURES = ("eval_loss", *(f"eval_loss_{label}" for label in LABELS), *(f"eval_{name}" for name in METRICS))
"""What `metric_for_best_model` may name. Losses are better when smaller, all others when greater."""


@dataclass
class Best:
    """The best of the evaluations that were `add`ed: rows of evaluations.jsonl, in the order of their steps.

    `patience` is how many evaluations in a row may be no better before a run is `exhausted`; None: any number.
    Raises UserError for a `metric` that no evaluation has.
    """

    metric: str = "eval_loss"
    patience: int | None = None
    step: int | None = None
    value: float | None = None
    worse: int = 0

    def __post_init__(self) -> None:
        if self.metric not in FIGURES:
            guess = nearest(self.metric, FIGURES)
            raise UserError(f"metric_for_best_model: there is no figure {self.metric!r} of an evaluation.{guess}")

    def add(self, row: dict[str, Any]) -> bool:
        """Whether this evaluation is better than all before it. One without the figure, or with NaN, is not."""
        value = self._figure(row)
        sign = -1.0 if self.metric.startswith("eval_loss") else 1.0
        if value is None or not math.isfinite(value) or (self.value is not None and sign * value <= sign * self.value):
            self.worse += 1
            return False
        self.step, self.value, self.worse = row["step"], value, 0
        return True

    @property
    def exhausted(self) -> bool:
        """Whether the run is to end."""
        return self.patience is not None and self.worse >= self.patience

    def _figure(self, row: dict[str, Any]) -> float | None:
        if self.metric in row:
            return row[self.metric]
        return row.get("eval_loss_by_label", {}).get(self.metric.removeprefix("eval_loss_"))
