"""SIGTERM and Ctrl-C: the step in work is finished and saved, on all ranks alike, before the run ends."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_REQUEST = 1.0
"""Seconds in which a repeated signal is the same request: a launcher passes on what the process also gets itself."""


class Interrupted(Exception):  # noqa: N818 - the run did not fail
    """The run was asked to end and has saved its state. `code` is what the process exits with: 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Interrupts:
    """While entered, the first SIGTERM or SIGINT is remembered; a second one stops the process at once.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._number, self._at = 0, 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # a job in the background of a shell ignores Ctrl-C
                    self._previous[number] = signal.signal(number, self._remember) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self) -> int:
        """The signal that asks the run to end, 0 without one. All ranks must call it, and all get the same."""
        if self._accelerator.num_processes == 1:
            return self._number
        number = torch.tensor(self._number, device=self._accelerator.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self._number:
            self._number, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > SAME_REQUEST:
            self.__exit__()
            signal.raise_signal(number)
