"""Intervals over conversations."""

from __future__ import annotations

import numpy as np
import pytest

from agentsft.evaluate.intervals import RESAMPLES, estimate, ratios


def coverage(clusters: int, size: int, spread: float, trials: int) -> tuple[float, float]:
    """How often the interval over conversations holds the truth, and how often one over single turns would."""
    random = np.random.default_rng(0)
    over_conversations = over_turns = 0
    for trial in range(trials):
        rates = np.clip(random.normal(0.6, spread, clusters), 0, 1)
        truth = np.clip(np.random.default_rng(1).normal(0.6, spread, 100_000), 0, 1).mean()
        good = random.binomial(size, rates)
        found = estimate(good, np.full(clusters, size), seed=trial)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        over_conversations += found.low <= truth <= found.high
        naive = 1.96 * np.sqrt(found.value * (1 - found.value) / found.count)
        over_turns += abs(found.value - truth) <= naive
    return over_conversations / trials, over_turns / trials


def test_intervals_hold_the_truth_as_often_as_they_say_though_turns_depend_on_one_another() -> None:
    covered, naive = coverage(clusters=40, size=10, spread=0.3, trials=250)
    assert 0.90 <= covered <= 0.985
    assert naive < 0.85


@pytest.mark.parametrize(("good", "low", "high"), [(0, 0.0, 0.25), (1, 0.75, 1.0)])
def test_where_all_agree_there_is_no_certainty(good: int, low: float, high: float) -> None:
    found = estimate(np.full(12, 3 * good), np.full(12, 3))
    assert found.value == good
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_nothing_to_count_has_no_value_and_one_conversation_no_interval() -> None:
    empty, one = estimate(np.zeros(3), np.zeros(3)), estimate(np.array([1.0, 0]), np.array([4.0, 0]))
    assert (empty.value, empty.low, empty.count) == (None, None, 0)
    assert (one.value, one.low, one.high, one.count, one.conversations) == (0.25, None, None, 4, 1)


def test_conversations_to_which_nothing_applies_change_nothing() -> None:
    part, whole = np.array([1.0, 3, 2, 0]), np.array([2.0, 4, 2, 3])
    padded = estimate(np.insert(part, 1, 0), np.insert(whole, 1, 0), seed=3)
    assert padded == estimate(part, whole, seed=3)


def test_the_draws_are_the_same_for_every_row_so_that_differences_are_paired() -> None:
    part, whole = np.array([1.0, 3, 2, 0, 1]), np.full(5, 4.0)
    drawn = ratios(np.stack([part, part + 1]), np.stack([whole, whole]), seed=0)
    assert drawn.shape == (2, RESAMPLES)
    assert np.allclose(drawn[1] - drawn[0], 0.25)
    assert drawn[0].std() > 0.05
