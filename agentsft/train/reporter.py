"""What the loop tells the outside. It prints nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Summary:
    """The arithmetic of a run, before its first step. Tokens are those of one epoch."""

    conversations: int
    eval_conversations: int
    tokens: int
    """Tokens of the token trees."""
    trained_tokens: int
    split_tokens: int
    """Tokens that training each root-to-leaf path by itself would take."""
    steps: int
    start_step: int
    """Steps already done by the checkpoint that the run goes on from."""
    batch_size: int
    micro_batches_per_step: float
    """Forward passes of each rank per step, on average over the first steps."""
    world_size: int
    device: str
    precision: str
    layout: str
    attention: str
    compiled: bool
    tuner: str
    trainable_parameters: int
    parameters: int
    computed_share: float = 1.0
    """Tokens computed for each token of the trees, over the first steps: below 1 where conversations begin alike."""

    @property
    def untrained_tokens(self) -> int:
        return self.tokens - self.trained_tokens

    @property
    def saved_tokens(self) -> int:
        """Tokens that sharing prefixes saves in each epoch."""
        return self.split_tokens - self.tokens if self.layout == "tree" else 0


class Reporter(Protocol):
    """Called on the main process only. `row` is the object that metrics.jsonl or evaluations.jsonl holds."""

    def on_start(self, summary: Summary) -> None: ...

    def on_step(self, row: dict[str, Any]) -> None: ...

    def on_eval(self, row: dict[str, Any]) -> None: ...

    def on_save(self, path: str) -> None: ...

    def on_note(self, text: str) -> None: ...

    def on_end(self, result: TrainResult) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. Losses are None where there was nothing to measure."""

    output: str
    steps: int
    loss: float | None
    eval_loss: float | None
    initial_eval_loss: float | None
    seconds: float
    skipped_steps: int


class Silent:
    """A reporter that says nothing."""

    def on_start(self, summary: Summary) -> None:
        pass

    def on_step(self, row: dict[str, Any]) -> None:
        pass

    def on_eval(self, row: dict[str, Any]) -> None:
        pass

    def on_save(self, path: str) -> None:
        pass

    def on_note(self, text: str) -> None:
        pass

    def on_end(self, result: TrainResult) -> None:
        pass
