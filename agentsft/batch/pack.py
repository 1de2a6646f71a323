"""From the trees of one optimizer step to micro-batches, the same on every rank, without communication."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentsft.batch.split import chains, split_tree
from agentsft.types import LABELS, TokenTree


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

    @property
    def packs(self) -> list[Pack]:
        return [pack for rank in self.ranks for pack in rank]

    @property
    def tokens(self) -> int:
        return sum(pack.tokens for pack in self.packs)


@dataclass(frozen=True, slots=True)
class Planner:
    """How the trees of a step become micro-batches.

    `budget` is the most tokens of one forward pass; only a single path may exceed it. `fill` (at most `budget`) is
    how far trees are put together. `split` trains each root-to-leaf path by itself, `rows` pads them into rows.
    `pair_cost` is what a pair of tokens costs in attention, as a share of what a token costs elsewhere.
    """

    budget: int
    fill: int
    world: int = 1
    split: bool = False
    rows: bool = False
    pair_cost: float = 0.0

    def plan(self, trees: Sequence[TokenTree]) -> StepPlan:
        """The micro-batches of one step; pure and deterministic, so every rank computes the whole of it.

        What trains nothing is left out.
        """
        pieces = [piece for tree in trees for piece in (chains(tree) if self.split else split_tree(tree, self.budget))]
        pieces = [piece for piece in pieces if (piece.weight > 0).any()]
        bins = self._rows(pieces) if self.rows else self._best_fit(pieces)
        self._divide(bins)
        weight = np.concatenate([tree.weight for tree in trees]) if trees else np.zeros(0, np.float32)
        label = np.concatenate([tree.label for tree in trees]) if trees else np.zeros(0, np.int8)
        return StepPlan(
            ranks=self._share(bins),
            num_items=int((weight > 0).sum()),
            weights=float(weight.sum(dtype=np.float64)),
            label_counts=np.bincount(label[weight > 0], minlength=len(LABELS)),
        )

    def cost(self, trees: Sequence[TokenTree]) -> float:
        """Time of a forward and backward pass, in tokens of matrix products."""
        return sum(len(tree) + self.pair_cost * float((tree.position_ids + 1).sum(dtype=np.int64)) for tree in trees)

    def _best_fit(self, pieces: list[TokenTree]) -> list[list[TokenTree]]:
        """Best-fit decreasing: the largest piece first, into the fullest bin that still has room."""
        bins: list[list[TokenTree]] = []
        free: list[tuple[int, int]] = []  # (room, bin), ascending
        for piece in sorted(pieces, key=len, reverse=True):
            place = bisect_left(free, (len(piece), 0))
            if place < len(free):
                room, number = free.pop(place)
            else:
                room, number = self.fill, len(bins)
                bins.append([])
            bins[number].append(piece)
            insort(free, (max(room - len(piece), 0), number))
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

    def _divide(self, bins: list[list[TokenTree]]) -> None:
        """Halves the costliest bins until every rank can have equally many, as far as there are pieces."""
        while len(bins) % self.world:
            several = [number for number, pieces in enumerate(bins) if len(pieces) > 1]
            if not several:
                return
            whole = bins.pop(max(several, key=lambda number: self.cost(bins[number])))
            bins += self._halves(whole)

    def _halves(self, pieces: list[TokenTree]) -> list[list[TokenTree]]:
        if self.rows:
            return [pieces[: len(pieces) // 2], pieces[len(pieces) // 2 :]]
        halves: tuple[list[TokenTree], list[TokenTree]] = ([], [])
        for piece in sorted(pieces, key=lambda piece: self.cost([piece]), reverse=True):
            min(halves, key=self.cost).append(piece)
        return list(halves)

    def _share(self, bins: list[list[TokenTree]]) -> tuple[tuple[Pack, ...], ...]:
        each = -(-len(bins) // self.world)
        shares: list[list[list[TokenTree]]] = [[] for _ in range(self.world)]
        load = [0.0] * self.world
        for trees in sorted(bins, key=self.cost, reverse=True):
            rank = min((r for r in range(self.world) if len(shares[r]) < each), key=lambda r: load[r])
            shares[rank].append(trees)
            load[rank] += self.cost(trees)
        for share in shares:
            share += [[] for _ in range(each - len(share))]
        return tuple(tuple(Pack(tuple(trees), self.rows) for trees in share) for share in shares)
