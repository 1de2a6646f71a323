from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.order import epochs_done, step_indices, steps_per_epoch, total_steps

N, BATCH, SEED = st.integers(1, 60), st.integers(1, 20), st.integers(0, 1000)


@settings(deadline=None)
@given(N, BATCH, SEED, st.integers(0, 5))
def test_every_epoch_trains_each_conversation_once_in_full_batches(n: int, batch: int, seed: int, epoch: int) -> None:
    steps = steps_per_epoch(n, batch)
    batches = [step_indices(seed, epoch * steps + s, n, batch).tolist() for s in range(steps)]
    assert sorted(i for b in batches for i in b) == list(range(n))
    assert {len(b) for b in batches[:-1]} <= {batch}


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [step_indices(seed, step, 50, 50).tolist() for seed in (1, 2) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@settings(deadline=None)
@given(N, BATCH, st.floats(0.1, 4))
def test_the_run_ends_when_the_epochs_are_done(n: int, batch: int, epochs: float) -> None:
    steps = total_steps(n, batch, epochs)
    assert epochs_done(steps, n, batch) >= epochs - 1e-6
    assert (steps - 1) / steps_per_epoch(n, batch) < epochs


def test_whole_epochs_have_whole_steps_and_max_steps_overrides_them() -> None:
    assert total_steps(300, 10, 0.1) == 3
    assert total_steps(10, 4, 2) == 6
    assert total_steps(10, 4, 2, max_steps=100) == 100
    assert epochs_done(3, 10, 4) == 1.0
