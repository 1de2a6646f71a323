"""Confidence intervals by bootstrap over conversations: turns of one conversation depend on one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 2**22


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of sums and its interval. `value` None: there is nothing to count. `low`, `high` None: there are fewer
    than two conversations to tell from. `count` is the denominator's sum, `conversations` how many have a part in it.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    conversations: int


def estimate(part: np.ndarray, whole: np.ndarray, seed: int = 42, rate: bool = True) -> Estimate:
    """sum(part) / sum(whole) with a 95% percentile interval; both arrays hold one number a conversation.

    Conversations are drawn with replacement, each with all its turns (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). Where all draws agree because a `rate` is 0 or 1, the bootstrap would claim certainty:
    there the exact binomial bound over the conversations stands instead, 1 - 0.025 ** (1 / n) away.
    """
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    used = whole > 0
    part, whole, n = part[used], whole[used], int(used.sum())
    if not n:
        return Estimate(None, None, None, 0, 0)
    value, count = float(part.sum() / whole.sum()), round(float(whole.sum()))
    if n < 2:
        return Estimate(value, None, None, count, n)
    if rate and value in (0.0, 1.0):
        bound = 1 - ((1 - LEVEL) / 2) ** (1 / n)
        low, high = (0.0, bound) if value == 0 else (1 - bound, 1.0)
        return Estimate(value, low, high, count, n)
    drawn = ratios(part, whole, seed)
    below, above = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(below), float(above), count, n)


def ratios(part: np.ndarray, whole: np.ndarray, seed: int) -> np.ndarray:
    """float64[RESAMPLES]: the ratio in each resample of the n conversations; the draws depend on n and seed alone.

    For arrays [..., n] the result is [..., RESAMPLES], every leading index on the same draws: their differences are
    paired. A resample in which nothing counts takes the ratio of all.
    """
    n = part.shape[-1]
    random = np.random.default_rng(seed)
    parts, step = [], max(1, _CHUNK // n)
    for first in range(0, RESAMPLES, step):
        times = random.multinomial(n, np.full(n, 1 / n), size=min(step, RESAMPLES - first)).astype(np.float64).T
        below = whole @ times
        above = part @ times
        mean = np.broadcast_to((part.sum(-1) / np.maximum(whole.sum(-1), 1e-300))[..., None], above.shape)
        parts.append(np.where(below > 0, above / np.where(below > 0, below, 1), mean))
    return np.concatenate(parts, axis=-1)
