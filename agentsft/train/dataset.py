"""The examples of a run: read, prepared, entered in the ledger, and divided into training and held-out ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentsft.config import TrainConfig
from agentsft.encode.cache import counted, prepare_cached
from agentsft.encode.examples import Examples, collected
from agentsft.encode.parallel import prepare_compact
from agentsft.encode.prepare import Preparer
from agentsft.errors import UserError
from agentsft.train.ledger import Ledger


@dataclass
class Dataset:
    """What a run trains on, what it holds out, and what it lost."""

    train: Examples = field(default_factory=lambda: Examples([]))
    held_out: Examples = field(default_factory=lambda: Examples([]))
    ledger: Ledger = field(default_factory=Ledger)
    held_out_ledger: Ledger = field(default_factory=Ledger)
    """What of `eval_data` is left out; it is not part of ledger.jsonl, which is about training."""

    @property
    def trained_and_held_out(self) -> int:
        """Rows of `eval_data` that have the very tokens of a row of `data`."""
        return self.held_out_ledger.duplicates.shared_with(self.ledger.duplicates)


def load_dataset(config: TrainConfig, preparer: Preparer, advance: Callable[[int], None] | None = None) -> Dataset:
    """Prepare the rows of `data` and `eval_data`; `advance` hears of each row.

    `eval_share` holds out whole groups of conversations that begin with the same user message, chosen by the seed, so
    that several attempts at one task never stand on both sides. Raises UserError when no row can be trained; the
    ledger is written then too, since it says why.
    """
    if not config.data:
        raise UserError("no data: say --data PATH, or `data:` in the recipe.")
    dataset = Dataset()
    examples = _prepared(config, preparer, config.data, advance)
    dataset.ledger.add_all(examples)
    examples = examples.select(examples.column("has_tree") == 1)
    if not examples:
        dataset.ledger.write(Path(config.output))
        worst = dataset.ledger.by_reason()[:1]
        cause = f": {dataset.ledger.entries[0]['source']}: {dataset.ledger.entries[0]['detail']}" if worst else "."
        raise UserError(f"no row of {', '.join(config.data)} can be trained{cause}")
    dataset.train, dataset.held_out = _divided(examples, config.eval_share, config.seed)
    if config.eval_data:
        others = _prepared(config, preparer, config.eval_data, advance)
        dataset.held_out_ledger.add_all(others)
        dataset.held_out += others.select(others.column("has_tree") == 1)
    return dataset


def _prepared(
    config: TrainConfig, preparer: Preparer, paths: list[str], advance: Callable[[int], None] | None
) -> Examples:
    """Compact examples of the rows of `paths`."""
    if config.cache:
        return prepare_cached(config, preparer, paths, advance)
    return collected(counted(prepare_compact(config, preparer, paths), advance))


def _divided(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Training and held-out examples; the latter are whole groups, about `share` of all."""
    if not share:
        return examples, Examples([])
    groups: dict[str | None, list[int]] = {}
    for place, task in enumerate(examples.texts("task")):
        groups.setdefault(task, []).append(place)
    names = list(groups)
    random.Random(seed).shuffle(names)
    wanted, chosen = share * len(examples), np.zeros(len(examples), bool)
    for name in names[:-1]:  # at least one group stays to be trained
        if chosen.sum() >= wanted:
            break
        chosen[groups[name]] = True
    return examples.select(~chosen), examples.select(chosen)
