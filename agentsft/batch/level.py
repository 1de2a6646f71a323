"""Evening out what the ranks have to do: conversations change places until the costliest rank gains no more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentsft.batch.merge import merge_trees
from agentsft.types import TokenTree

CLOSE = 1.002
"""How much costlier than their mean the costliest rank may be."""

UNEVEN = 1.02
"""How much costlier it may be before packs become larger for it."""

LEAST = 0.9995
"""What the costliest rank of two must come down to for a change."""

CHANGES = 64
"""How many conversations, or pairs of them, change places at most."""


class Part(NamedTuple):
    """Conversations that begin alike, as one tree. Those of one `group` have at least `common` tokens in common."""

    tree: TokenTree
    members: list[TokenTree]
    group: int
    common: int

    def __len__(self) -> int:
        return len(self.tree)


Bin = list[Part]


def level(ranks: list[list[Bin]], pair_cost: float, fill: int) -> list[list[Bin]]:
    """`ranks` of bins with the costs of the ranks evened out: the same conversations in other places.

    `pair_cost` is what a pair of tokens costs in attention, as a share of what a token costs elsewhere. No bin becomes
    larger than `fill` tokens, nor than the largest was, unless ranks would stay uneven. A path longer than that stays
    in a bin of its own.
    """
    if len(ranks) < 2 or not all(ranks):
        return ranks
    places = _Places(ranks, pair_cost)
    for room, close in ((min(places.sizes[0].max(), fill), CLOSE), (fill, UNEVEN)):
        places.room = room
        for _ in range(CHANGES):
            if not places.change(close):
                break
    return places.ranks(ranks)


class _Places:
    """The bin of each conversation, and what follows from it. Bins are numbered through all ranks."""

    def __init__(self, ranks: list[list[Bin]], pair_cost: float) -> None:
        bins = [each for rank in ranks for each in rank]
        parts = [part for each in bins for part in each]
        self.members = [member for part in parts for member in part.members]
        self.rank_of = np.repeat(np.arange(len(ranks)), [len(rank) for rank in ranks])
        self.bin = np.repeat(np.arange(len(bins)), [sum(len(part.members) for part in each) for each in bins])
        numbers = {group: number for number, group in enumerate(dict.fromkeys(part.group for part in parts))}
        self.group = np.repeat([numbers[part.group] for part in parts], [len(part.members) for part in parts])
        common = np.zeros(len(numbers))
        for part in parts:
            common[numbers[part.group]] = part.common
        # What a conversation takes, and what of that a bin has already where it has one of the group: tokens and cost.
        pairs = [float((member.position_ids + 1).sum(dtype=np.int64)) for member in self.members]
        length = np.array([len(member) for member in self.members], np.float64)
        self.size = np.stack([length, length + pair_cost * np.array(pairs)])
        self.shared = np.stack([common, common + pair_cost * common * (common + 1) / 2])[:, self.group]
        self.room = 0.0
        self._count()

    def _count(self) -> None:
        """How many of each group are in each bin, and the tokens and the cost of each bin: [2, bins]."""
        self.count = np.zeros((len(self.rank_of), int(self.group.max()) + 1), np.int64)
        np.add.at(self.count, (self.bin, self.group), 1)
        taken = self.size - self.shared
        self.sizes = np.stack([np.bincount(self.bin, row, len(self.rank_of)) for row in taken])
        first = np.unique(self.bin * self.count.shape[1] + self.group, return_index=True)[1]
        for row, shared in zip(self.sizes, self.shared, strict=True):
            np.add.at(row, self.bin[first], shared[first])

    def change(self, close: float) -> bool:
        """Takes cost off the costliest rank by a change with the cheapest one that allows it.

        False where none does, or none needs to: the costliest is within `close` times the mean.
        """
        loads = np.bincount(self.rank_of, self.sizes[1])
        high, *others = (int(rank) for rank in np.roll(np.argsort(loads, kind="stable"), 1))
        if loads[high] <= close * loads.mean():
            return False
        ours = np.flatnonzero(self.rank_of[self.bin] == high)
        return any(self._between(ours, rank, loads[high], loads[rank]) for rank in others)

    def _between(self, ours: np.ndarray, low: int, high_load: float, low_load: float) -> bool:
        """Carries out the change between `ours` and those of rank `low` that helps most, if one does."""
        theirs, bins = np.flatnonzero(self.rank_of[self.bin] == low), np.flatnonzero(self.rank_of == low)
        moves = self._moves(ours, bins, high_load, low_load)
        swaps = self._swaps(ours, theirs, high_load, low_load)
        best = min(moves.min(initial=np.inf), swaps.min(initial=np.inf))
        if best >= LEAST * high_load:
            return False
        if best in moves:
            one, two = np.unravel_index(moves.argmin(), moves.shape)
            self.bin[ours[one]] = bins[two]
        else:
            one, two = np.unravel_index(swaps.argmin(), swaps.shape)
            self.bin[ours[one]], self.bin[theirs[two]] = self.bin[theirs[two]], self.bin[ours[one]]
        self._count()
        return True

    def _without(self, which: np.ndarray) -> np.ndarray:
        """What a bin saves without each of the conversations `which`: [2, n]."""
        alone = self.count[self.bin[which], self.group[which]] == 1
        return self.size[:, which] - np.where(alone, 0, self.shared[:, which])

    def _moves(self, ours: np.ndarray, bins: np.ndarray, high_load: float, low_load: float) -> np.ndarray:
        """The larger load of both ranks once each of `ours` is in each of `bins`; infinite where it cannot go there."""
        known = self.count[bins][:, self.group[ours]].T > 0
        more = self.size[:, ours, None] - np.where(known, self.shared[:, ours, None], 0)
        after = np.maximum(high_load - self._without(ours)[1][:, None], low_load + more[1])
        others = np.bincount(self.bin, minlength=len(self.rank_of))[self.bin[ours]] > 1
        fits = self.sizes[0][bins] + more[0] <= self.room
        return np.where(fits & others[:, None], after, np.inf)

    def _swaps(self, ours: np.ndarray, theirs: np.ndarray, high_load: float, low_load: float) -> np.ndarray:
        """The same once each of `ours` has changed places with each of `theirs`."""
        alike = self.group[ours][:, None] == self.group[theirs]
        mine, other = self.bin[ours], self.bin[theirs]
        known_there = self.count[other][:, self.group[ours]].T - alike > 0
        known_here = self.count[mine][:, self.group[theirs]] - alike > 0
        # Of one group: what the one leaves the other finds, unless it was alone, when both bring all.
        gone, came = self._without(ours)[:, :, None], self._without(theirs)[:, None, :]
        there = self.size[:, ours, None] - np.where(known_there, self.shared[:, ours, None], 0) - came
        here = self.size[:, None, theirs] - np.where(known_here, self.shared[:, None, theirs], 0) - gone
        after = np.maximum(high_load + here[1], low_load + there[1])
        fits = (self.sizes[0][mine][:, None] + here[0] <= self.room) & (self.sizes[0][other] + there[0] <= self.room)
        return np.where(fits, after, np.inf)

    def ranks(self, before: list[list[Bin]]) -> list[list[Bin]]:
        """The bins as they are now; parts that have not changed are those of `before`."""
        old = {tuple(map(id, part.members)): part for rank in before for each in rank for part in each}
        common = dict.fromkeys(range(self.count.shape[1]), 0)
        groups: dict[tuple[int, int], list[TokenTree]] = {}
        for number, (place, group) in enumerate(zip(self.bin.tolist(), self.group.tolist(), strict=True)):
            groups.setdefault((place, group), []).append(self.members[number])
            common[group] = int(self.shared[0, number])
        bins: list[Bin] = [[] for _ in self.rank_of]
        for (place, group), members in groups.items():
            part = old.get(tuple(map(id, members)))
            bins[place].append(part or Part(merge_trees(members), members, group, common[group]))
        return [[bins[place] for place in np.flatnonzero(self.rank_of == rank)] for rank in range(len(before))]
