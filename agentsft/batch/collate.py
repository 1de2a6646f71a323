"""From a pack to the tensors of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agentsft.batch.arrange import longest_first
from agentsft.batch.blocks import FLEX_BLOCK, block_lists
from agentsft.batch.pack import Pack

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class MicroBatch:
    """One forward pass of `b` rows and `n` columns (b is 1 unless the pack has rows), on one device.

    `input_ids`, `position_ids` int64[b, n]. A forest has `subtree_end` int32[n] (padding sees itself alone), `dfs`
    int32[n], the depth-first index of each place, and `spans`, the (start, end, is_chain) of its trees, and in whole
    blocks `blocks`, those of `block_lists`; rows have `attention_mask` bool[b, n] instead, or neither where nothing is
    padded. `rows` int64[u]: the places in b * n, unique and ascending, whose hidden states predict targets; `tail`
    int64[k] is the same, filled up to whole blocks with one other place. Target j, of `row_start[i] <= j < row_start[i
    + 1]` (on the host), belongs to rows[i] = rows[row[j]]: `row`, `token`, `label` int64[m], `weight` float32[m].
    `together` float32[m] is the weight of all targets with this one's row and token.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    subtree_end: torch.Tensor | None
    dfs: torch.Tensor | None
    blocks: torch.Tensor | None
    attention_mask: torch.Tensor | None
    rows: torch.Tensor
    tail: torch.Tensor
    row: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor
    together: torch.Tensor
    label: torch.Tensor
    row_start: np.ndarray
    spans: tuple[tuple[int, int, bool], ...]

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`; copies to CUDA go through pinned memory and do not wait."""
        import torch

        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                pinned = value.pin_memory() if device.type == "cuda" else value
                moved[field.name] = pinned.to(device, non_blocking=True)
        return replace(self, **moved)


def collate(pack: Pack, multiple: int = 1, arrange: bool = False) -> MicroBatch:
    """The tensors of `pack`, on the host, its columns padded to a multiple of `multiple`. A dummy has one token.

    `arrange` lays each tree out with its longest paths in one piece instead of depth first, for attention in blocks.
    """
    import torch

    columns = padded_to(pack.size // max(len(pack.trees), 1) if pack.rows else pack.tokens, multiple)
    shape = (max(len(pack.trees), 1) if pack.rows else 1, columns)
    size = shape[0] * columns
    starts = _starts(pack, columns)

    input_ids, position_ids = np.zeros(size, np.int64), np.zeros(size, np.int64)
    subtree_end = np.arange(1, size + 1, dtype=np.int32)
    real = np.zeros(size, bool)
    dfs = np.arange(size, dtype=np.int32)
    place_of = np.arange(size)  # of each depth-first index
    for start, tree in zip(starts, pack.trees, strict=True):
        place = slice(start, start + len(tree))
        order = longest_first(tree) if arrange and not tree.is_chain else slice(None)
        input_ids[place], position_ids[place], real[place] = tree.input_ids[order], tree.position_ids[order], True
        subtree_end[place] = tree.subtree_end[order] + start
        dfs[place] = dfs[place][order]
        place_of[dfs[place]] = np.arange(start, start + len(tree))

    source, token, weight, label = _targets(pack, starts, place_of)
    rows, first, row = np.unique(source, return_index=True, return_inverse=True)
    spans = tuple((start, start + len(tree), tree.is_chain) for start, tree in zip(starts, pack.trees, strict=True))
    gaps = pack.rows and bool(pack.trees) and not real.all()
    whole = arrange and not pack.rows and size % FLEX_BLOCK == 0
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids.reshape(shape)),
        position_ids=torch.from_numpy(position_ids.reshape(shape)),
        subtree_end=None if pack.rows else torch.from_numpy(subtree_end),
        dfs=None if pack.rows else torch.from_numpy(dfs),
        blocks=torch.from_numpy(block_lists(dfs, subtree_end)) if whole else None,
        attention_mask=torch.from_numpy(real.reshape(shape)) if gaps else None,
        rows=torch.from_numpy(rows),
        tail=torch.from_numpy(_filled(rows, size, multiple)),
        row=torch.from_numpy(row),
        token=torch.from_numpy(token),
        weight=torch.from_numpy(weight),
        together=torch.from_numpy(_together(row, token, weight)),
        label=torch.from_numpy(label),
        row_start=np.append(first, len(source)),
        spans=() if pack.rows else spans,
    )


def padded_to(columns: int, multiple: int) -> int:
    """`columns` as a multiple of `multiple`: at least two blocks, since compiled code takes one for a constant."""
    return multiple * max(-(-columns // multiple), 1 if multiple == 1 else 2)


def _starts(pack: Pack, columns: int) -> list[int]:
    """Where each tree begins in the flattened tensors."""
    if pack.rows:
        return [number * columns for number in range(len(pack.trees))]
    return np.cumsum([0, *map(len, pack.trees)])[:-1].tolist()


def _filled(rows: np.ndarray, size: int, multiple: int) -> np.ndarray:
    """`rows`, and behind them a place of 0 to `size` that is none of them, as often as it takes for whole blocks.

    Never `size` in all: compiled code would take two equal lengths for one.
    """
    others = np.ones(size, bool)
    others[rows] = False
    if not others.any():
        return rows
    blocks = multiple * max(-(-len(rows) // multiple), 1)
    blocks += multiple if blocks == size and multiple > 1 else 0
    return np.append(rows, np.full(max(blocks - len(rows), 0), int(others.argmax()), np.int64))


def _together(row: np.ndarray, token: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each target the summed weight of those with its row and token, float32."""
    _, group = np.unique((row.astype(np.int64) << 32) | token, return_inverse=True)
    return np.bincount(group, weight)[group].astype(np.float32) if len(weight) else weight


def _targets(
    pack: Pack, starts: list[int], place_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Targets of weight > 0 ordered by source: source, token (int64), weight (float32), label (int64)."""
    parts = [(place_of[tree.source + start], tree) for start, tree in zip(starts, pack.trees, strict=True)]
    source = np.concatenate([source for source, _ in parts] or [np.zeros(0, np.int64)])
    token = np.concatenate([tree.token for _, tree in parts] or [source]).astype(np.int64)
    weight = np.concatenate([tree.weight for _, tree in parts] or [source]).astype(np.float32)
    label = np.concatenate([tree.label for _, tree in parts] or [source]).astype(np.int64)
    order = np.argsort(source, kind="stable")
    order = order[weight[order] > 0]
    return source[order], token[order], weight[order], label[order]
