"""The conversations that a plan looks at: all that are prepared already, or a sample that is prepared for it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentsft.config import TrainConfig
from agentsft.data.mixture import check_weights, source_numbers
from agentsft.encode.cache import prepared
from agentsft.encode.load import load_preparer, load_rows
from agentsft.encode.prepare import Preparer
from agentsft.errors import UserError
from agentsft.types import Row, TokenTree


@dataclass(frozen=True)
class Planned:
    """`trees` of `looked_at` rows, of `rows` in all; `refused` is how many of those looked at train nothing.

    A tree is there as often as an epoch has it, where `data_weights` says so.
    """

    trees: Sequence[TokenTree]
    rows: int
    looked_at: int
    refused: int

    @property
    def conversations(self) -> int:
        """Conversations of an epoch, estimated where not all rows were looked at."""
        return round(self.rows * len(self.trees) / max(self.looked_at, 1))


def planned_rows(config: TrainConfig, sample: int) -> Planned:
    """All rows where they are prepared already, else `sample` of them, chosen by the seed.

    Reading goes through the files once, so that every row has the same chance. Raises UserError where no row that was
    looked at can be trained, and as reading and preparing do.
    """
    if not config.data:
        raise UserError("no data: say --data PATH, or `data:` in the recipe.")
    preparer = load_preparer(config)
    examples = prepared(config, preparer) if config.cache else None
    if examples is not None:
        trained = examples.select(examples.column("has_tree") == 1)
        trees = _weighted(config, examples.trees, trained.texts("source"))
        planned = Planned(trees, len(examples), len(examples), len(examples) - len(trained))
    else:
        planned = _sampled(config, preparer, sample)
    if not planned.trees:
        raise UserError(f"none of {planned.looked_at} rows of {', '.join(config.data)} can be trained: agentsft check.")
    return planned


def _sampled(config: TrainConfig, preparer: Preparer, size: int) -> Planned:
    chosen: list[Row] = []
    generator, count = random.Random(config.seed), 0
    for count, row in enumerate(load_rows(config), start=1):
        if len(chosen) < size:
            chosen.append(row)
        elif (place := generator.randrange(count)) < size:
            chosen[place] = row
    chosen.sort(key=lambda row: row.index)
    found = [(one.tree, one.source) for one in preparer.prepare(chosen) if one.tree is not None]
    trees = _weighted(config, [tree for tree, _ in found], [source for _, source in found])
    return Planned(trees, count, len(chosen), len(chosen) - len(found))


def _weighted(config: TrainConfig, trees: Sequence[TokenTree], where: Sequence[str]) -> Sequence[TokenTree]:
    """`trees` as often as their sources' weights say."""
    weights = check_weights(config.data, config.data_weights)
    if not config.data_weights:
        return trees
    source = source_numbers(where, config.data)
    places: list[int] = []
    for number, weight in enumerate(weights):
        members = np.flatnonzero(source == number).tolist()
        places += members * math.floor(weight) + members[: round((weight - math.floor(weight)) * len(members))]
    return [trees[place] for place in places]
