"""Python's garbage collector, kept away from what stays for the whole run."""

from __future__ import annotations

import gc

WARM_UP = 2
"""Steps after which all that stays is there: modules, the model, and what torch.compile has made of it."""


class Garbage:
    """While entered, and told of each step, full collections look only at what came after the first steps.

    Else each looks at half a million objects for half a second, at any step, and every GPU waits for it. Nothing is
    done unless `active`: on a CPU a step takes longer than that.
    """

    def __init__(self, active: bool) -> None:
        self._active, self._steps = active, 0

    def __enter__(self) -> Garbage:
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            gc.unfreeze()

    def after_step(self) -> None:
        """To be called between two steps."""
        self._steps += 1
        if self._active and self._steps <= WARM_UP:
            gc.collect()  # what is garbage already would stay for good
            gc.freeze()
