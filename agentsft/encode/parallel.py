"""Preparation by several processes: rows go out in batches, compact examples come back in order."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from agentsft.config import DataConfig
from agentsft.encode.load import load_rows, preparer_settings
from agentsft.encode.prepare import Preparer
from agentsft.encode.torchless import hide_torch
from agentsft.errors import UserError
from agentsft.types import Example, Row

ALONE_SECONDS = 3.0
"""One process works alone for so long before others are started: about what their start costs."""

_ROWS = 64  # in one batch
_AHEAD = 4  # batches under way for each process
_MOST = 8


def prepare_compact(
    config: DataConfig,
    preparer: Preparer,
    paths: list[str] | None = None,
    skip: int = 0,
    rows: Iterable[Row] | None = None,
) -> Iterator[Example]:
    """Every row of the settings' data, or of `paths`, but the first `skip`, as a compact example, in order;
    of `rows` where they are read already.

    `config.num_proc` processes prepare, this one included; None starts others only when the work takes long. They
    are new interpreters (no forks), so a script that calls this needs the usual `if __name__ == "__main__":`. The
    examples do not depend on the number of processes. Raises UserError as `Preparer.prepare` and reading do.
    """
    rows = islice(load_rows(config, paths) if rows is None else rows, skip, None)
    processes = config.num_proc or default_processes()
    if config.num_proc is None or processes == 1:
        seconds = ALONE_SECONDS if processes > 1 else math.inf
        yield from map(compact, preparer.prepare(_for_seconds(rows, seconds)))
    batches = _batches(rows)
    if first := next(batches, None):
        yield from _prepare_with(processes - 1, config, preparer, chain([first], batches))


def _for_seconds(rows: Iterator[Row], seconds: float) -> Iterator[Row]:
    """The first of `rows`, until so many seconds are over; what is left stays in `rows`."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop and (row := next(rows, None)):
        yield row


def default_processes() -> int:
    """As many processes as this one may use cores, at most 8; the ranks on one machine share them.

    One for two cores, where measured runs of two processes were slower.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return min(_MOST, share) if share > 2 else 1


def compact(example: Example) -> Example:
    """The example without its texts: what training, ledger and counts need, small enough to be sent and stored."""
    messages = example.conversation.messages if example.conversation else ()
    task = next((message.content for message in messages if message.role == "user"), example.source)
    return replace(
        example,
        turns=(),
        conversation=None,
        turn_count=len(example.turns),
        task=hashlib.blake2b(task.encode(errors="surrogatepass"), digest_size=16).hexdigest(),
    )


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, _ROWS)):
        yield batch


def _prepare_with(
    workers: int, config: DataConfig, preparer: Preparer, batches: Iterator[list[Row]]
) -> Iterator[Example]:
    """Batches prepared by `workers` other processes, and by this one whenever it would wait for them."""
    context = multiprocessing.get_context("spawn")
    # A worker lives as long as this end is open: it ends with us, however we end.
    until, alive = context.Pipe(duplex=False)
    state = _shared(pickle.dumps((preparer.tokenizer, preparer_settings(config, preparer.tokenizer))))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(until, state.name))
    under_way: deque[Future[list[Example]]] = deque()
    try:
        while True:
            while sum(not future.done() for future in under_way) < _AHEAD * workers and (batch := next(batches, None)):
                with _interrupts_blocked():
                    under_way.append(pool.submit(_prepare_in_worker, batch))
            if not under_way:
                break
            if not under_way[0].done() and (batch := next(batches, None)):
                under_way.append(_done_here(preparer, batch))
            else:
                yield from under_way.popleft().result()
        pool.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "a process that prepares rows has died, perhaps for want of memory, or since a script that calls this has "
            'no `if __name__ == "__main__":`; try fewer: --num-proc 1.'
        ) from None
    finally:
        alive.close()
        until.close()
        pool.shutdown(cancel_futures=True)
        state.close()
        state.unlink()


def _shared(content: bytes) -> SharedMemory:
    """`content` where other processes find it by name.

    Not among a worker's arguments: what is large there blocks us for good where the worker dies before it reads it.
    """
    memory = SharedMemory(create=True, size=len(content))
    assert memory.buf is not None
    memory.buf[: len(content)] = content
    return memory


def _done_here(preparer: Preparer, batch: list[Row]) -> Future[list[Example]]:
    """A batch that this process prepares itself; its error is raised when its turn comes, as with one process."""
    future: Future[list[Example]] = Future()
    try:
        future.set_result([compact(example) for example in preparer.prepare(batch)])
    except UserError as error:
        future.set_exception(error)
    return future


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C, which is the main process's to handle."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: dict[str, Any] = {}


def _start(until: Connection, state: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems that could not block it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    threading.Thread(target=_end_with, args=(until,), daemon=True).start()
    _worker["state"] = state


def _end_with(until: Connection) -> None:
    try:
        until.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _prepare_in_worker(batch: list[Row]) -> list[Example]:
    if "preparer" not in _worker:
        _worker["preparer"] = _received(_worker.pop("state"))
    return [compact(example) for example in _worker["preparer"].prepare(batch)]


def _received(state: str) -> Preparer:
    """The main process's preparer: its very tokenizer and settings, so that no file is read again."""
    hide_torch()
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # the main process has said it
    memory = SharedMemory(state)
    assert memory.buf is not None
    tokenizer, settings = pickle.loads(memory.buf)  # noqa: S301 (from the main process's own memory)
    memory.close()
    return Preparer(tokenizer, **settings)
