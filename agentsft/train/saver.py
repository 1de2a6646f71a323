"""Checkpoints in the background: a step waits for the copy to host memory alone, a thread does the rest."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from agentsft.train.interrupt import Interrupted
from agentsft.train.memory import host_memory_left, out_of_memory
from agentsft.train.quantize import is_part_of_weight
from agentsft.train.reporter import Reporter
from agentsft.train.saving import not_written, save_checkpoint

MOST_MEMORY = 0.8
"""Share of the free host memory that the copies may take."""


class Saver:
    """Saves a model and its optimizer while they are trained on. Use it as a context, on the main process alone.

    One checkpoint is written at a time; the next one waits for it. What became of it is told to the reporter by
    `poll` and `wait`, in the caller's thread. The copies are kept for the next save, which then takes no new memory.
    """

    def __init__(self, output: Path, model: Any, optimizer: Any, limit: int | None, reporter: Reporter) -> None:
        self._output, self._model, self._optimizer = output, model, optimizer
        self._limit, self._reporter = limit, reporter
        self._copies: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self.saved: int | None = None
        """Step of the last checkpoint that was written."""
        self._step, self._short = 0, False
        self._sharers = 1
        """Processes of this machine that make copies at the same time."""
        self._path: Path | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the checkpoint in work, unless a signal stops the process at once."""
        if kind is None:
            self.wait()
        elif not issubclass(kind, Interrupted):
            try:
                self.wait()
            except Exception as other:  # must not hide why the run ends
                self._reporter.on_note(f"checkpoint-{self._step} could not be written ({other}).")
        self._copies.clear()

    def save(self, state: dict[str, Any]) -> None:
        """Saves the present weights and moments with `state` as checkpoint-`state["step"]`.

        Returns once they are copied. Where host memory is too short for copies it writes from the originals, and
        returns when that is done.
        """
        self.wait()
        self._step = state["step"]
        copies = self._copy()
        if copies is None:
            self._write(state, *self._originals())
            self.wait()
            return
        # A daemon, so that a second Ctrl-C is not kept waiting; what it leaves half-written bears no valid name.
        self._thread = threading.Thread(target=self._write, args=(state, *copies), name="saver", daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Tells the reporter of the checkpoint that was in work, if it is done. Raises what `wait` raises."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the checkpoint in work is written or has failed, and tells the reporter.

        A checkpoint that cannot be written is a note; any other error of the thread is raised here.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        path, error, self._path, self._error = self._path, self._error, None, None
        if isinstance(error, OSError):
            self._reporter.on_note(not_written(self._output, self._step, error))
        elif error is not None:
            raise error
        elif path is not None:
            self.saved = self._step
            self._reporter.on_save(str(path))

    def _write(self, state: dict[str, Any], *content: Any) -> None:
        try:
            self._path = self._save(state, *content)
        except BaseException as error:  # the caller's thread raises it
            self._error = error

    def _save(self, state: dict[str, Any], *content: Any) -> Path:
        """Writes the checkpoint of `state` with what `_copy` or `_originals` gave."""
        weights, moments = content
        return save_checkpoint(self._output, self._model, weights, moments, state, self._limit)

    def _originals(self) -> tuple[Any, ...]:
        return None, self._optimizer.state_dict()

    def _copy(self) -> tuple[Any, ...] | None:
        """Host copies of the weights and of the optimizer's state, or None where memory is too short for them.

        Frozen weights do not change and are not copied.
        """
        named = self._model.state_dict(keep_vars=True)
        # Tied weights have one copy.
        changing = {id(value): name for name, value in named.items() if _changes(value) and not is_part_of_weight(name)}
        moments = self._optimizer.state_dict()
        originals = {f"weight {name}": named[name].detach() for name in changing.values()}
        for number, values in moments["state"].items():
            originals |= {f"{number} {name}": v for name, v in values.items() if isinstance(v, torch.Tensor)}
        if not self._make_room(originals):
            return None
        for name, original in originals.items():
            self._copies[name].copy_(original, non_blocking=True)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        weights = {
            name: self._copies[f"weight {changing[id(value)]}"] if id(value) in changing else value
            for name, value in named.items()
        }
        copied = {
            number: {name: self._copies.get(f"{number} {name}", value) for name, value in values.items()}
            for number, values in moments["state"].items()
        }
        return weights, {**moments, "state": copied}

    def _make_room(self, originals: dict[str, torch.Tensor]) -> bool:
        """Makes room for copies of `originals`; False, with a note the first time, where there is too little."""
        fitting = {
            name: copy
            for name, copy in self._copies.items()
            if name in originals and (copy.shape, copy.dtype) == (originals[name].shape, originals[name].dtype)
        }
        new = {name: value for name, value in originals.items() if name not in fitting}
        needed, left = sum(value.nbytes for value in new.values()), host_memory_left() // self._sharers
        try:
            if needed > MOST_MEMORY * left:
                raise MemoryError
            self._copies = fitting | {name: _empty(value) for name, value in new.items()}
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self._copies = {}
            if not self._short:
                self._reporter.on_note(
                    f"Steps wait while checkpoints are written: {needed / 2**30:.1f} GiB of host memory for copies "
                    f"are not free ({left / 2**30:.1f} GiB are)."
                )
            self._short = True
            return False
        return True


def _changes(value: Any) -> bool:
    """Whether training may change `value` of a state dict: all but frozen parameters."""
    return isinstance(value, torch.Tensor) and (value.requires_grad or not isinstance(value, torch.nn.Parameter))


def _empty(like: torch.Tensor) -> torch.Tensor:
    """Host memory for a copy of `like`; pinned for a GPU's, since such copies run at the bus's full speed."""
    return torch.empty_like(like, device="cpu", memory_format=torch.contiguous_format, pin_memory=like.is_cuda)
