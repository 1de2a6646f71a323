"""From the trees of one optimizer step to micro-batches, the same on every rank, without communication."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from agentsft.batch.level import Bin, Part, level
from agentsft.batch.merge import alike, merge_trees
from agentsft.batch.split import chains, split_tree
from agentsft.types import LABELS, TokenTree

_Tree = TypeVar("_Tree", TokenTree, Part)
_Item = TypeVar("_Item")

EVENLY = (1.02, 1.05, 1.1, 1.2, 1.4)
"""How much fuller than their mean bins may be; the first that takes no more bins is used."""

AGAIN = 1.01
"""How many more tokens even bins may have in all, unless ranks would idle: what is shared can come in several bins."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """The trees of one forward pass. Without trees it only keeps a rank in step with the others.

    `rows` False: the trees lie side by side in one sequence. True: they are chains, one a row, padded on the right.
    """

    trees: tuple[TokenTree, ...]
    rows: bool = False

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(len(tree) for tree in self.trees)

    @property
    def size(self) -> int:
        """Tokens with the padding of rows: what the forward pass computes."""
        return len(self.trees) * max(map(len, self.trees), default=0) if self.rows else self.tokens


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """All micro-batches of a step: `ranks[r]` are those of rank r, equally many for every rank.

    `num_items` counts the targets of weight > 0 over all of them, `weights` sums their weights, `label_counts`
    (int64[len(LABELS)]) counts them by label.
    """

    ranks: tuple[tuple[Pack, ...], ...]
    num_items: int
    weights: float
    label_counts: np.ndarray
    tree_tokens: int = 0
    """Tokens of the conversations' own trees; what they share across conversations counts for each of them."""

    @property
    def packs(self) -> list[Pack]:
        return [pack for rank in self.ranks for pack in rank]

    @property
    def tokens(self) -> int:
        """Tokens that are computed, without padding."""
        return sum(pack.tokens for pack in self.packs)


@dataclass(frozen=True, slots=True)
class Planner:
    """How the trees of a step become micro-batches.

    `budget` is the most tokens of one forward pass; only a single path may exceed it. `fill` (at most `budget`) is
    how far trees are put together. `split` trains each root-to-leaf path by itself, `rows` pads them into rows.
    `share` merges conversations that begin alike. `pair_cost` is what a pair of tokens costs in attention, as a share
    of what a token costs elsewhere.
    """

    budget: int
    fill: int
    world: int = 1
    split: bool = False
    rows: bool = False
    pair_cost: float = 0.0
    share: bool = False

    def plan(self, trees: Sequence[TokenTree]) -> StepPlan:
        """The micro-batches of one step; pure and deterministic, so every rank computes the whole of it.

        What trains nothing is left out.
        """
        pieces = [piece for tree in trees for piece in (chains(tree) if self.split else split_tree(tree, self.budget))]
        pieces = [piece for piece in pieces if (piece.weight > 0).any()]
        if self.share and not self.rows:
            merged = self._evenly(pieces, self._merged, self.world)
            costs = [self.cost([part.tree for part in parts]) for parts in merged]
            ranks = level(_balance(merged, costs, self.world), self.pair_cost, self.fill)
            shares = [[[part.tree for part in parts] for parts in bins] for bins in ranks]
        else:
            shares = [
                self._rows(share) if self.rows else self._evenly(share, self._best_fit, 1)
                for share in _balance(pieces, self._costs(pieces), self.world)
            ]
        most = max(map(len, shares))
        divided = [sorted(self._divide(bins, most), key=self.cost, reverse=True) for bins in shares]
        weight = np.concatenate([tree.weight for tree in trees]) if trees else np.zeros(0, np.float32)
        label = np.concatenate([tree.label for tree in trees]) if trees else np.zeros(0, np.int8)
        return StepPlan(
            ranks=tuple(tuple(Pack(tuple(trees), self.rows) for trees in bins) for bins in divided),
            num_items=int((weight > 0).sum()),
            weights=float(weight.sum(dtype=np.float64)),
            label_counts=np.bincount(label[weight > 0], minlength=len(LABELS)),
            tree_tokens=sum(map(len, trees)),
        )

    def cost(self, trees: Sequence[TokenTree]) -> float:
        """Time of a forward and backward pass, in tokens of matrix products."""
        return sum(len(tree) + self.pair_cost * float((tree.position_ids + 1).sum(dtype=np.int64)) for tree in trees)

    def _costs(self, trees: Sequence[TokenTree]) -> list[float]:
        return [self.cost([tree]) for tree in trees]

    def _merged(self, pieces: list[TokenTree], fill: int) -> list[Bin]:
        """Bins of trees: conversations that begin alike go together and merge; then what is left fills up."""
        parts = []
        for group, (members, common) in enumerate(alike(pieces, fill)):
            for together in self._best_fit(members, fill, common):
                parts.append(Part(merge_trees(together), together, group, common))
        return self._best_fit(parts, fill)

    def _evenly(
        self, pieces: list[TokenTree], put: Callable[[list[TokenTree], int], list[list[_Tree]]], ranks: int
    ) -> list[list[_Tree]]:
        """As few bins as `put` needs, or as many more as `ranks` divides evenly, about equally full.

        The largest bin sets the peak of memory, and it is no larger than it must be.
        """
        bins = put(pieces, self.fill)
        most = -(-len(bins) // ranks) * ranks
        tokens = sum(len(tree) for trees in bins for tree in trees)
        for slack in EVENLY:
            fill = int(slack * tokens / max(most, 1)) + 1
            if fill >= self.fill:
                break
            smaller = put(pieces, fill)
            computed = sum(len(tree) for trees in smaller for tree in trees)
            if len(smaller) <= most and (len(bins) < most or computed <= AGAIN * tokens):
                return smaller
        return bins

    def _best_fit(self, pieces: list[_Tree], fill: int, common: int = 0) -> list[list[_Tree]]:
        """Best-fit decreasing: the largest piece first, into the fullest bin that still has room.

        The first `common` tokens, which all pieces share, take room in each bin only once.
        """
        bins: list[list[_Tree]] = []
        free: list[tuple[int, int]] = []  # (room, bin), ascending
        for piece in sorted(pieces, key=len, reverse=True):
            own = len(piece) - common
            place = bisect_left(free, (own, 0))
            if place < len(free):
                room, number = free.pop(place)
            else:
                room, number = fill - common, len(bins)
                bins.append([])
            bins[number].append(piece)
            insort(free, (max(room - own, 0), number))
        return bins

    def _rows(self, pieces: list[TokenTree]) -> list[list[TokenTree]]:
        """Chains of similar length together: at most a fifth of a row is padding."""
        bins: list[list[TokenTree]] = []
        for piece in sorted(pieces, key=len, reverse=True):
            longest = len(bins[-1][0]) if bins else 0
            if bins and (len(bins[-1]) + 1) * longest <= self.fill and len(piece) >= 0.8 * longest:
                bins[-1].append(piece)
            else:
                bins.append([piece])
        return bins

    def _divide(self, bins: list[list[TokenTree]], most: int) -> list[list[TokenTree]]:
        """`bins`, the costliest halved until there are `most`, then with empty ones, so that all ranks have as many."""
        while len(bins) < most:
            largest = max(bins, key=lambda pieces: (len(pieces) > 1, self.cost(pieces)), default=[])
            if len(largest) < 2:
                return [*bins, *([] for _ in range(most - len(bins)))]
            half = len(largest) // 2
            halves = [largest[:half], largest[half:]] if self.rows else _balance(largest, self._costs(largest), 2)
            bins = [pieces for pieces in bins if pieces is not largest] + halves
        return bins


def _balance(items: list[_Item], costs: Sequence[float], shares: int) -> list[list[_Item]]:
    """`items` in so many shares: the costliest first, to whom has least."""
    shared: list[list[_Item]] = [[] for _ in range(shares)]
    load = [0.0] * shares
    for number in sorted(range(len(items)), key=lambda number: -costs[number]):
        least = load.index(min(load))
        shared[least].append(items[number])
        load[least] += costs[number]
    return shared
