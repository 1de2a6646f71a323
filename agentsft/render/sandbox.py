"""What a chat template may cost: it comes with a model, and may loop, multiply and double without end.

Jinja's sandbox keeps templates away from Python and from long ranges. Here one rendering is bounded in time and in
memory, and its arithmetic in size, since a single operation on huge numbers cannot be interrupted.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from agentsft.render.lookups import quicken

RENDER_SECONDS = 10.0
"""A rendering takes milliseconds; one that takes longer than this is ended."""

RENDER_BYTES = 2 * 2**30
"""One rendering may take this much memory more than the process has (on Linux)."""

_LARGEST_NUMBER = 4096  # bits of what is multiplied, divided or raised
_LONGEST_REPEAT = 10**7  # characters or items
_REFUSED = ("*", "**", "//", "%")

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_UNKNOWN = 2**62

T = TypeVar("T")


class LimitError(Exception):
    """A rendering took more time or memory than it may. The text says which."""


class _Alarm(BaseException):
    """Raised inside a rendering when its time is up; no `except Exception` of a filter swallows it."""


def compile_template(text: str) -> Any:
    """`text` compiled in Transformers' own sandboxed environment, with bounded arithmetic.

    Raises LimitError, or whatever Jinja and Python raise for a template that does not compile.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template("").environment.overlay()
    environment.intercepted_binops = frozenset(_REFUSED)
    operations = environment.binop_table

    def call_binop(context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return operations[operator](left, right)

    environment.call_binop = call_binop
    quicken(environment)
    _take_alarms()
    return limited(lambda: environment.from_string(text))


def _check_operands(operator: str, left: Any, right: Any) -> None:
    for number in (left, right):
        if isinstance(number, int) and number.bit_length() > _LARGEST_NUMBER:
            raise OverflowError(f"a number of {number.bit_length()} bits is too large to calculate with")
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * right > _LARGEST_NUMBER:
            raise OverflowError(f"a power of more than {_LARGEST_NUMBER} bits is too large")
    elif operator == "*":
        for sized, times in ((left, right), (right, left)):
            if isinstance(times, int) and hasattr(sized, "__len__") and len(sized) * times > _LONGEST_REPEAT:
                raise OverflowError(f"a repetition of more than {_LONGEST_REPEAT:,} characters or items is too long")


def limited(work: Callable[[], T]) -> T:
    """What `work` returns. Raises LimitError when it takes more than `RENDER_SECONDS` or `RENDER_BYTES`.

    The bounds hold in the main thread, where signals arrive, and on systems that have timers and limits of address
    space; elsewhere `work` just runs. They cost some microseconds.
    """
    if not _can_be_limited():
        return work()
    try:
        return _bounded(work)
    except _Alarm:
        raise LimitError(f"took more than {RENDER_SECONDS:g} seconds") from None
    except MemoryError:
        raise LimitError(f"took more than {RENDER_BYTES / 2**30:g} GiB of memory") from None


_running = False
_under_ceiling = False
_before: Any = None  # whose alarms were handled here before


@contextmanager
def one_ceiling() -> Iterator[None]:
    """Inside, renderings have one bound of memory in common: so much more than the process has now.

    To find it anew for each of them takes a fifth of the time of a short one.
    """
    global _under_ceiling
    if _under_ceiling or not _can_be_limited():
        yield
        return
    with _ceiling():
        _under_ceiling = True
        try:
            yield
        finally:
            _under_ceiling = False


@contextmanager
def _ceiling() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Found anew each time: under a ceiling that the process has outgrown not even its stack could grow.
    most = _address_space() + RENDER_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (min(limit for limit in (most, soft, hard) if limit >= 0), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _can_be_limited() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


def _bounded(work: Callable[[], T]) -> T:
    global _running
    timer = signal.setitimer(signal.ITIMER_REAL, RENDER_SECONDS, 1.0)
    try:
        with nullcontext() if _under_ceiling else _ceiling():
            _running = True
            try:
                return work()
            finally:
                _running = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _ring(number: int, frame: Any) -> None:
    if _running:
        raise _Alarm
    if callable(_before):
        _before(number, frame)


def _take_alarms() -> None:
    """From now on alarms come here; those that are not about a rendering are passed on to whom they went before."""
    global _before
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is not _ring:
        _before = signal.signal(signal.SIGALRM, _ring)


def _address_space() -> int:
    """Bytes of address space that the process has taken, or very many where that is not known."""
    try:
        return int(os.pread(_statm(os.getpid()), 64, 0).split(None, 1)[0]) * _PAGE
    except OSError:
        return _UNKNOWN


@functools.lru_cache(maxsize=1)
def _statm(process: int) -> int:
    """The open file that tells of the memory of this process."""
    return os.open(f"/proc/{process}/statm", os.O_RDONLY | os.O_CLOEXEC)
