"""What the next step needs of the host, made in a thread while the device computes the present one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Steps made by `make(step)`, a pure function, one of them ahead of its use.

    A step that was not begun is made when it is taken, so that nothing depends on what was begun.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun: dict[int, Future[T]] = {}

    def begin(self, step: int) -> None:
        """Make `step` in the background; what was begun before and not taken is forgotten."""
        self._begun = {step: self._begun.get(step) or self._thread.submit(self._make, step)}

    def take(self, step: int) -> T:
        """The step, waiting for it where it is not ready. Raises what making it raised."""
        begun = self._begun.pop(step, None)
        return begun.result() if begun else self._make(step)
