from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.errors import UserError
from agentsft.evaluate.best import FIGURES, Best

VALUES = st.lists(st.none() | st.sampled_from([0.1, 0.2, 0.3, math.nan, math.inf]), max_size=12)


def row(metric: str, step: int, value: float | None) -> dict:
    if metric.startswith("eval_loss_"):
        return {"step": step, "eval_loss": 9.0, "eval_loss_by_label": {metric.removeprefix("eval_loss_"): value}}
    return {"step": step, metric: value}


@settings(deadline=None)
@given(metric=st.sampled_from(FIGURES), values=VALUES, patience=st.none() | st.integers(1, 4))
def test_the_best_is_the_first_of_the_best_values_and_patience_counts_from_it(
    metric: str, values: list[float | None], patience: int | None
) -> None:
    best = Best(metric, patience)
    improved = [step for step, value in enumerate(values) if best.add(row(metric, step, value))]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    wanted = None if not finite else (min if metric.startswith("eval_loss") else max)(finite)
    assert best.value == wanted
    assert best.step == (None if wanted is None else values.index(wanted))
    assert improved == sorted(improved)
    assert (not improved) == (wanted is None)
    since = len(values) if best.step is None else len(values) - best.step - 1
    assert best.exhausted == (patience is not None and since >= patience)


def test_an_unknown_figure_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r'eval_exact_cal.*Did you mean "eval_exact_call"'):
        Best("eval_exact_cal")
