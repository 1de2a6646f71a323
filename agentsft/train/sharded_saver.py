"""Checkpoints of a sharded run in the background: each process copies and writes its own shard."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from agentsft.train.reporter import Reporter
from agentsft.train.saver import Saver
from agentsft.train.shards import parts_of, save_shards

LONGEST_WRITE = timedelta(hours=6)
"""How long a process waits for the slowest to write its shard."""


class ShardedSaver(Saver):
    """A `Saver` that every process has, and that all of them call alike.

    The threads that write agree through connections of their own (gloo), so that steps go on meanwhile.
    """

    def __init__(self, output: Path, model: Any, optimizer: Any, limit: int | None, reporter: Reporter) -> None:
        super().__init__(output, model, optimizer, limit, reporter)
        self._group = distributed.new_group(backend="gloo", timeout=LONGEST_WRITE)
        self._sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def _save(self, state: dict[str, Any], *content: Any) -> Path:
        [parts] = content
        return save_shards(self._output, parts, state, self._limit, self._group)

    def _originals(self) -> tuple[Any, ...]:
        return (parts_of(self._model, self._optimizer),)

    def _copy(self) -> tuple[Any, ...] | None:
        parts = parts_of(self._model, self._optimizer)
        if not self._make_room({key: part.tensor for key, part in parts.items()}):
            return None
        for key, part in parts.items():
            self._copies[key].copy_(part.tensor, non_blocking=True)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return ({key: replace(part, tensor=self._copies[key]) for key, part in parts.items()},)
