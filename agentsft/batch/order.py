"""Which conversations an optimizer step trains: a pure function of the seed and the step, without iterator state."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps that one pass over `n` conversations takes; the last one may be smaller."""
    return math.ceil(n / batch_size)


def total_steps(n: int, batch_size: int, num_train_epochs: float, max_steps: int | None = None) -> int:
    """Optimizer steps of the run. `max_steps` overrides the epochs; a part of an epoch is rounded up to whole steps."""
    if max_steps is not None:
        return max_steps
    return math.ceil(num_train_epochs * steps_per_epoch(n, batch_size) - 1e-9)  # 0.1 * 30 is a little above 3


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of epoch number `epoch` (from 0): a permutation of range(n), int64[n], not to be written to."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    order.setflags(write=False)
    return order


def step_indices(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """The conversations of step number `step` (from 0): `batch_size` consecutive ones of its epoch's order."""
    epoch, within = divmod(step, steps_per_epoch(n, batch_size))
    return epoch_order(seed, epoch, n)[within * batch_size : (within + 1) * batch_size]


def epochs_done(steps: int, n: int, batch_size: int) -> float:
    """Passes over the data that are complete after `steps` steps, with the fraction of the current one."""
    epochs, within = divmod(steps, steps_per_epoch(n, batch_size))
    return epochs + min(within * batch_size, n) / n


def is_due(every: int | None, step: int) -> bool:
    """Whether what happens `every` so many steps happens after this one."""
    return every is not None and step % every == 0
