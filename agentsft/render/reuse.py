"""Messages rendered once: a template rewritten so that the prefixes of one conversation share their messages' text.

A template writes a message in the body of a loop. What a body writes depends on the message and on those values from
outside that the body reads: the loop's state, neighbouring messages, namespaces, variables. Where none of them can
differ from those of an earlier prefix, for the first messages up to some place, the body would do again what it did:
the loop starts behind them, with their text taken from memory. Everything else runs as ever. Values that cannot be
compared exactly never match, and loops that are not fully understood are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import Environment, nodes, runtime, utils
from jinja2 import Template as JinjaTemplate

from agentsft.render.reads import PURE_CALLS, Places, Reads

_SKIP, _TEXT, _MARK = _OURS = "agentsft_skip", "agentsft_text", "agentsft_mark"

State = dict[str, Any]
"""What a namespace holds."""


class Memory:
    """What the prefixes of one conversation share. The messages and tools that it is given must not change."""

    def __init__(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> None:
        self.runs: dict[tuple[Any, ...], _Run] = {}
        self._kept = [*messages, *(tools or ()), tools]  # so that no other object can get the identity of one of these
        self.owned = frozenset(id(one) for one in self._kept if one is not None)

    def fact(self, value: Any) -> Any:
        """What stands for a value in a key, equal for two values only if no template can tell them apart; or None."""
        kind = type(value)
        if kind is bool or kind is str or kind is int or value is None:
            return kind, value
        if id(value) in self.owned:
            return id(value)
        if isinstance(value, utils.Namespace):
            return self.state_fact(_state(value))
        return (kind, value._undefined_name) if kind is runtime.Undefined else None

    def state_fact(self, state: State) -> Any:
        """What stands for a namespace's contents, or None."""
        facts = tuple((name, None if isinstance(v, utils.Namespace) else self.fact(v)) for name, v in state.items())
        return None if any(fact is None for _, fact in facts) else facts


class _Run:
    """One pass over the messages: the text of each one, from `base` on, and the namespaces as it leaves them.

    Only messages before `settled` are recorded: those behind which there were as many as a body looks ahead.
    """

    def __init__(self, loop: int, items: list[Any], base: int, settled: int, bounds: list[int]) -> None:
        self.loop, self.items, self.base, self.settled, self.bounds = loop, items, base, settled, bounds
        self.texts: list[str] = []
        self.states: list[list[State]] = []
        self.namespaces: list[Any] = []
        self.start = -1

    def reach(self, other: _Run, offsets: Sequence[int]) -> int:
        """How many messages, the `base` ones included, are in `other` what they would be here."""
        end = min(other.base + len(other.texts), self.settled)
        for here, there, offset in zip(self.bounds, other.bounds, offsets, strict=True):
            if here != there:
                end = min(end, min(here, there) - offset)
        same = all(map(is_, self.items[: max(end, 0)], other.items))
        return end if same else 0

    def begin(self, pieces: list[str], memory: Memory) -> None:
        """The next message begins, where the text so far is `pieces`: record the one before it."""
        if self.start >= 0 and self.base + len(self.texts) < self.settled:
            states = [dict(_state(namespace)) for namespace in self.namespaces]
            if all(memory.state_fact(state) is not None for state in states):
                self.texts.append("".join(pieces[self.start :]))
                self.states.append(states)
            else:
                self.settled = 0
        self.start = len(pieces)


class ReusingTemplate:
    """The rewritten form of a template. `compiled` is None where no loop of it can be reused."""

    def __init__(self, text: str, environment: Environment) -> None:
        own = environment.overlay()
        ours = {_SKIP: self._skip, _TEXT: self._text, _MARK: self._mark}
        own.filters = {**environment.filters, **ours}
        tree = own.parse(text)
        self.compiled = own.from_string(tree) if _rewrite(tree) else None
        self._memory = Memory((), None)
        self._pieces: list[str] = []
        self._run: _Run | None = None
        self._count = 0
        self._found = ""

    def render(self, variables: Mapping[str, Any], memory: Memory) -> str:
        """The text for `variables`, whose messages and tools are the memory's own. Raises what the template raises."""
        assert self.compiled is not None
        self._memory, self._run, self._count = memory, None, len(variables["messages"])
        pieces = self._pieces = []
        for piece in self.compiled.root_render_func(context_of(self.compiled, variables)):
            pieces.append(piece)
        return "".join(pieces)

    def _skip(self, values: tuple[Any, ...], number: int, offsets: tuple[int, ...], ahead: int) -> bool:
        """Take all messages at once that an earlier run has, and go on behind them.

        `values` are the loop, the numbers that places in it are compared with, and what else counts for all of it.
        """
        self._run, memory = None, self._memory
        loop, bounds, rest = values[0], list(values[1 : 1 + len(offsets)]), values[1 + len(offsets) :]
        facts = tuple(memory.fact(value) for value in rest)
        items = loop._iterable if type(loop) is runtime.LoopContext else None
        if type(items) is not list or None in facts or any(type(bound) is not int for bound in bounds):
            return False
        base = loop.index0
        run = _Run(number, items, base, min(len(items), self._count) - ahead, bounds)
        run.namespaces = [value for value in rest if isinstance(value, utils.Namespace)]
        before, memory.runs[number, facts] = memory.runs.get((number, facts)), run
        self._run = run
        end = run.reach(before, offsets) if before else 0
        if before is None or end <= base:
            return False
        run.texts, run.states = before.texts[: end - base], before.states[: end - base]
        self._found = "".join(run.texts)
        _restore(run.namespaces, run.states[-1])
        loop.index0, loop._current, loop._after = end - 1, items[end - 1], utils.missing
        loop._before = items[end - 2] if end > 1 else utils.missing
        loop._iterator = iter(items[end:])
        return True

    def _mark(self, _: Any, number: int) -> str:
        """A body of this loop begins."""
        if self._run is not None and self._run.loop == number:
            self._run.begin(self._pieces, self._memory)
        return ""

    def _text(self, _: Any) -> str:
        return self._found


def run(compiled: JinjaTemplate, variables: Mapping[str, Any]) -> str:
    """The text of a compiled template, as its own `render` makes it."""
    return "".join(compiled.root_render_func(context_of(compiled, variables)))


def context_of(compiled: JinjaTemplate, variables: Mapping[str, Any]) -> runtime.Context:
    """What Jinja's `new_context` makes, without its slow copy of the globals' chain, which nobody changes."""
    known = _globals.get(compiled)
    if known is None:
        known = _globals[compiled] = dict(compiled.globals)
    environment = compiled.environment
    return environment.context_class(environment, {**known, **variables}, compiled.name, compiled.blocks, known)


_globals: WeakKeyDictionary[JinjaTemplate, dict[str, Any]] = WeakKeyDictionary()


def _state(namespace: Any) -> State:
    return namespace._Namespace__attrs


def _restore(namespaces: Sequence[Any], states: Sequence[State]) -> None:
    for namespace, state in zip(namespaces, states, strict=True):
        _state(namespace).clear()
        _state(namespace).update(state)


def _rewrite(tree: nodes.Template) -> bool:
    """Let every loop that can be understood ask the memory first. Whether there was one."""
    macros = {node.name: node for node in tree.body if isinstance(node, nodes.Macro)}
    stored = {node.name for node in tree.find_all((nodes.Name,)) if node.ctx in ("store", "param")}
    if any(node.name in _OURS for node in tree.find_all((nodes.Filter,))) or PURE_CALLS & {*stored, *macros}:
        return False
    if len(macros) < len(list(tree.find_all((nodes.Macro,)))):
        return False
    count = 0
    for loop in _outer_loops(tree.body):
        reads = Reads(loop, macros, frozenset(stored))
        if reads.understood and reads.places.understood:
            _ask_first(loop, reads.places, count)
            count += 1
    return count > 0


def _outer_loops(body: Sequence[nodes.Node]) -> Iterator[nodes.For]:
    """The loops that write straight to the output."""
    for node in body:
        if isinstance(node, nodes.For):
            yield node
        elif isinstance(node, nodes.If):
            yield from _outer_loops([*node.body, *node.elif_, *node.else_])


def _ask_first(loop: nodes.For, places: Places, number: int) -> None:
    """Write before a loop's body: where messages can be skipped, their text and `continue`."""
    assert isinstance(loop.target, nodes.Name)  # others are not understood
    assert loop.environment is not None  # as the parser made it
    message, state = nodes.Name(loop.target.name, "load"), nodes.Name("loop", "load")

    def ask(value: nodes.Expr, name: str, *arguments: Any) -> nodes.Filter:
        return nodes.Filter(value, name, [nodes.Const(one) for one in arguments], [], None, None)

    values = nodes.Tuple([state, *(bound for bound, _ in places.bounds), *places.run], "load")
    offsets = tuple(offset for _, offset in places.bounds)
    here = nodes.Compare(nodes.Getattr(state, "index0", "load"), [nodes.Operand("eq", nodes.Const(places.back))])
    skip = nodes.And(here, ask(values, _SKIP, number, offsets, places.ahead))
    taken: list[nodes.Node] = [nodes.Output([ask(message, _TEXT)]), nodes.Continue()]
    loop.body = [nodes.If(skip, taken, [], []), nodes.Output([ask(message, _MARK, number)]), *loop.body]
    loop.set_lineno(loop.lineno).set_environment(loop.environment)
