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
    _quicken_attributes(environment)
    _take_alarms()
    return limited(lambda: environment.from_string(text))


def _quicken_attributes(environment: Any) -> None:
    """Let the sandbox decide once for each type and attribute, not at every access, which is most of a template's time.

    Its decision looks at nothing else, as long as it is Jinja's own. A dict's keys, a loop's counters and a text's
    methods are found as the sandbox would find them, with less ado.
    """
    from types import BuiltinMethodType

    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

    if type(environment).is_safe_attribute is not ImmutableSandboxedEnvironment.is_safe_attribute:
        return
    decide = ImmutableSandboxedEnvironment.is_safe_attribute.__get__(environment)
    known: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(obj: Any, attr: str, value: Any) -> bool:
        key = (type(obj), attr)
        if key not in known:
            known[key] = decide(obj, attr, value)
        return known[key]

    environment.is_safe_attribute = is_safe_attribute
    if type(environment).getattr is not SandboxedEnvironment.getattr:
        return
    look_up = SandboxedEnvironment.getattr.__get__(environment)
    call_safely = SandboxedEnvironment.call.__get__(environment)
    undefined = environment.undefined
    of_dict = frozenset(dir(dict))
    of_loop = frozenset({"first", "last", "index", "index0", "length"})
    namespace = environment.globals.get("namespace")
    plain = frozenset({str, int, bool, type(None)})
    of_text = frozenset({"startswith", "endswith", "split", "strip", "lstrip", "rstrip", "replace"})

    def get_attribute(obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict and attribute not in of_dict:
            try:
                return obj[attribute]
            except KeyError:
                return undefined(obj=obj, name=attribute)
        if (kind is LoopContext and attribute in of_loop) or (kind is str and attribute in of_text):
            return getattr(obj, attribute)
        if kind is namespace:
            value = obj._Namespace__attrs.get(attribute, obj)
            if type(value) in plain and is_safe_attribute(obj, attribute, value):
                return value
        return look_up(obj, attribute)

    def call(context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if type(function) is BuiltinMethodType and type(function.__self__) is str and function.__name__ in of_text:
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return function(*args, **kwargs)
        return call_safely(context, function, *args, **kwargs)

    environment.code_generator_class = _look_up_in_place(environment.code_generator_class, of_dict, of_loop)
    environment.getattr = get_attribute
    if type(environment).call is SandboxedEnvironment.call:
        environment.call = call


def _look_up_in_place(generator: Any, of_dict: frozenset[str], of_loop: frozenset[str]) -> Any:
    """A code generator that writes a look-up in a variable, `message.role` or `loop.index0`, as the look-up itself.

    `get_attribute` would find the same, by a call for each of the dozens of look-ups of every message.
    """
    from jinja2 import nodes

    def look_up(self: Any, node: Any, frame: Any) -> None:
        of_variable = isinstance(node.node, nodes.Name) and node.node.ctx == "load" and not self.environment.is_async
        name, key = frame.symbols.ref(node.node.name) if of_variable else "", node.attr
        if of_variable and node.node.name == "loop" and key in of_loop:
            self.write(f"({name}.{key} if type({name}) is LoopContext else ")
        elif of_variable and key not in of_dict:
            found = f"{name}[{key!r}] if {key!r} in {name} else environment.undefined(obj={name}, name={key!r})"
            self.write(f"(({found}) if type({name}) is dict else ")
        else:
            return generator.visit_Getattr(self, node, frame)
        generator.visit_Getattr(self, node, frame)
        return self.write(")")

    return type("InPlace", (generator,), {"visit_Getattr": look_up})


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
