"""SIGTERM and Ctrl-C: before the first step they end the run at once, afterwards on all ranks after the same step."""

from __future__ import annotations

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_REQUEST = 1.0
"""Seconds in which a repeated signal is the same request: a launcher passes on what the process also gets itself."""


class Interrupted(BaseException):
    """The run was asked to end. `code` is what the process exits with: 128 + the signal.

    `said` tells whether the reporter has heard of it. No Exception, since libraries catch those and go on.
    """

    def __init__(self, number: int, said: bool = False) -> None:
        self.name = signal.Signals(number).name
        super().__init__(self.name)
        self.code = 128 + number
        self.said = said


class _Handlers(ABC):
    """While entered, SIGTERM and SIGINT call `_caught`. Outside the main thread, where Python allows no handlers,
    nothing is caught; nor is what the process was told to ignore, as a shell does with Ctrl-C for its background.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Any:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self._caught(number)
        else:  # a process that was forked meanwhile
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @abstractmethod
    def _caught(self, number: int) -> None:
        """What signal number `number` does in this process."""


class AtOnce(_Handlers):
    """While entered, SIGTERM and SIGINT raise Interrupted."""

    def _caught(self, number: int) -> None:
        raise Interrupted(number)


class Interrupts(_Handlers):
    """While entered, the first SIGTERM or SIGINT is remembered; a second one does what it did before."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self._accelerator = accelerator
        self._number, self._at = 0, 0.0

    def asked(self) -> int:
        """The signal that asks the run to end, 0 without one. All ranks must call it, and all get the same."""
        if self._accelerator.num_processes == 1:
            return self._number
        import torch

        number = torch.tensor(self._number, device=self._accelerator.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)

    def _caught(self, number: int) -> None:
        if not self._number:
            self._number, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > SAME_REQUEST:
            self.__exit__()
            signal.raise_signal(number)


Asked = Callable[[], int]
"""Says which signal asks the run to end, 0 for none; called by all ranks alike."""
