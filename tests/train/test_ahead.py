from __future__ import annotations

import threading

import pytest

from agentsft.train.ahead import Ahead


def test_a_step_begun_ahead_is_made_once_in_another_thread_and_is_what_it_would_have_been() -> None:
    made: list[tuple[int, str]] = []

    def make(step: int) -> int:
        made.append((step, threading.current_thread().name))
        return step * step

    ahead = Ahead(make)
    ahead.begin(3)
    ahead.begin(3)
    assert ahead.take(3) == 9
    assert [step for step, _ in made] == [3]
    assert made[0][1] != threading.current_thread().name
    assert ahead.take(3) == 9
    assert made[1] == (3, threading.current_thread().name)


def test_a_fault_in_the_thread_is_raised_where_the_step_is_taken() -> None:
    ahead = Ahead(lambda step: 1 // step)
    ahead.begin(0)
    with pytest.raises(ZeroDivisionError):
        ahead.take(0)
