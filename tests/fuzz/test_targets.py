"""A few examples of every fuzz target, and each input that once crashed one. `make fuzz` searches for longer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsft.render import sandbox
from agentsft.weigh import strategy
from tests.fuzz.targets import TARGETS


@pytest.fixture(autouse=True)
def _bounds_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets lower these for themselves."""
    monkeypatch.setattr(strategy, "PATTERN_SECONDS", strategy.PATTERN_SECONDS)
    monkeypatch.setattr(sandbox, "RENDER_SECONDS", sandbox.RENDER_SECONDS)
    monkeypatch.setattr(sandbox, "RENDER_BYTES", sandbox.RENDER_BYTES)


def findings(name: str, examples: int) -> list[Any]:
    """The inputs, none of them to be expected, of which a target's property does not hold; hypothesis shrinks them."""
    target = TARGETS[name]
    found: list[Any] = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(target.values if target.values is not None else st.binary(max_size=200))
    def holds(value: Any) -> None:
        found[:] = [value]
        target.check(value)
        found.clear()

    holds()
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_fed_is_exact_or_refused(name: str) -> None:
    assert findings(name, 20 if name == "conversation" else 40) == []


CRASHES: list[tuple[str, Any]] = [("recipe", b"!!timestamp ")]


@pytest.mark.parametrize("number", range(len(CRASHES)))
def test_what_once_crashed_a_target_is_handled(number: int) -> None:
    name, value = CRASHES[number]
    assert TARGETS[name].check(value) is None, json.dumps(value, default=repr)
