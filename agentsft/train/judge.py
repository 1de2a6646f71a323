"""What judges a model between two steps, beside its held-out loss. `agentsft.evaluate` brings one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Measure = Callable[[Any, Any], dict[str, float]]
"""(model, accelerator) -> figures for evaluations.jsonl. Every process calls it and gets the same."""


class Ranking(Protocol):
    """Which evaluation is the best. Rows of evaluations.jsonl come in the order of their steps."""

    def add(self, row: dict[str, Any]) -> bool:
        """Whether this one is better than all before it."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether the run is to end, since too many were no better."""
        ...


@dataclass(frozen=True)
class Judge:
    """Both are None where nothing is asked for."""

    measure: Measure | None = None
    ranking: Ranking | None = None


NONE = Judge()
