"""What the body of a template's loop reads from outside, found in the template's syntax tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jinja2 import nodes

PURE_CALLS = frozenset({"raise_exception", "range", "dict", "namespace"})
_EARLY = (
    *(nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And),
    *(nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Mul, nodes.Mod, nodes.Neg, nodes.Test, nodes.CondExpr),
)
_EXPRESSIONS = (
    *(*_EARLY, nodes.NSRef, nodes.Call, nodes.Keyword, nodes.Filter, nodes.Concat, nodes.List, nodes.Tuple),
    *(nodes.Dict, nodes.Pair, nodes.Pos, nodes.Div, nodes.FloorDiv, nodes.Pow, nodes.TemplateData),
)
_EARLY_FILTERS = frozenset({"length", "count", "default", "d", "trim", "lower", "upper"})
_IMPURE = frozenset({"random", "sameas"})
"""What does not depend on values alone: chance, and the identity of objects."""
_POSITIONAL = frozenset({"index", "index0", "first"})


class Reads:
    """What a loop's body reads from outside.

    `values` are expressions that can be worked out before the body. Equal values mean that the body does the same for
    the same message. `understood` is False where that cannot be said.
    """

    def __init__(self, loop: nodes.For, macros: Mapping[str, nodes.Macro], stored: frozenset[str]) -> None:
        self.values: list[nodes.Expr] = []
        self.understood = (
            isinstance(loop.target, nodes.Name)
            and not (loop.recursive or loop.test or loop.else_)
            and any(isinstance(node, nodes.Output) for part in loop.body for node in all_nodes(part))
        )
        if not self.understood or not isinstance(loop.target, nodes.Name):
            return
        self._target: str = loop.target.name
        self._macros = macros
        self._macro_names = frozenset(macros)
        inside = [node for part in loop.body for node in all_nodes(part)]
        self._own = {node.name for node in inside if isinstance(node, nodes.Name) and node.ctx != "load"}
        self._written = {node.name for node in inside if isinstance(node, nodes.NSRef)}
        if self._own & ({self._target, "loop"} | self._macro_names | self._written):
            self.understood = False
            return
        for name in sorted(self._written):
            self.values.append(nodes.Name(name, "load"))
        self._walk(loop.body, {self._target}, ())
        if {node.name for node in inside if isinstance(node, nodes.Name)} & self._macro_names:
            self._read_macros(stored)
        self.places = Places(self.values, self._target, "messages" not in stored)

    def _read_macros(self, stored: frozenset[str]) -> None:
        """What macros read beside their arguments. It has to be the same in a macro and at the loop: never set."""
        inner, before = Reads.__new__(Reads), len(self.values)
        for macro in self._macros.values():
            inner.understood, inner.values = True, []
            inner._target, inner._macros, inner._macro_names = "", self._macros, self._macro_names
            inside = [node for part in macro.body for node in all_nodes(part)]
            inner._own = {node.name for node in inside if isinstance(node, nodes.Name) and node.ctx != "load"}
            inner._written = set()
            arguments = {one.name for one in macro.args}
            inner._walk(macro.body, arguments | {"caller", "varargs", "kwargs"}, ())
            plain = all(isinstance(value, nodes.Const) for value in macro.defaults)
            if not (inner.understood and plain) or any(isinstance(node, nodes.NSRef) for node in inside):
                self.understood = False
            self.values += [value for value in inner.values if value not in self.values]
        read = {one.name for value in self.values[before:] for one in all_nodes(value) if isinstance(one, nodes.Name)}
        if read & (stored | {self._target, "loop"}):
            self.understood = False

    def _walk(
        self,
        body: Sequence[nodes.Node],
        known: set[str],
        guards: tuple[nodes.Expr, ...],
    ) -> set[str]:
        """Collect the reads of statements; `known` are the names that surely hold the body's own values."""
        known = set(known)
        for node in body:
            if isinstance(node, nodes.Output):
                for part in node.nodes:
                    self._read(part, known, guards)
            elif isinstance(node, nodes.If):
                known = self._walk_if(node, known, guards)
            elif isinstance(node, nodes.For) and not node.recursive:
                self._read(node.iter, known, guards)
                inner = known | {one.name for one in all_nodes(node.target) if isinstance(one, nodes.Name)} | {"loop"}
                if node.test is not None:
                    self._read(node.test, inner, guards)
                self._walk(node.body, inner, guards)
                self._walk(node.else_, known, guards)
            elif isinstance(node, nodes.Assign):
                self._read(node.node, known, guards)
                known |= {one.name for one in all_nodes(node.target) if isinstance(one, nodes.Name)}
            elif isinstance(node, nodes.AssignBlock) and isinstance(node.target, nodes.Name):
                if node.filter is not None:
                    self._read(node.filter, known, guards)
                self._walk(node.body, known, guards)
                known.add(node.target.name)
            else:
                self.understood = False
        return known

    def _walk_if(self, node: nodes.If, known: set[str], guards: tuple[nodes.Expr, ...]) -> set[str]:
        test = node.test
        self._read(test, known, guards)
        yes = no = guards
        if isinstance(test, nodes.Expr) and self._is_early(test, known):
            yes, no = (*guards, test), (*guards, nodes.Not(test))
        after = self._walk(node.body, known, yes)
        if node.elif_:
            rest = nodes.If(node.elif_[0].test, node.elif_[0].body, node.elif_[1:], node.else_)
            return after & self._walk_if(rest, known, no)
        return after & self._walk(node.else_, known, no)

    def _read(self, node: nodes.Node, known: set[str], guards: tuple[nodes.Expr, ...]) -> None:
        impure = isinstance(node, nodes.Filter | nodes.Test) and node.name in _IMPURE
        if impure or not isinstance(node, _EXPRESSIONS):
            self.understood = False
        elif isinstance(node, nodes.Expr) and self._is_early(node, known):
            if {one.name for one in all_nodes(node) if isinstance(one, nodes.Name)} - {self._target}:
                self._add(node, guards)
        elif isinstance(node, nodes.Name):
            if node.name not in known and node.name not in self._written:
                self._add(node, guards)
        elif isinstance(node, nodes.Call):
            self._read_call(node, known, guards)
        else:
            for child in node.iter_child_nodes():
                self._read(child, known, guards)

    def _read_call(self, node: nodes.Call, known: set[str], guards: tuple[nodes.Expr, ...]) -> None:
        """A call's arguments, and the object whose method it is. What a method of a text gives, its text decides."""
        function = node.node
        if isinstance(function, nodes.Getattr):
            self._read(function.node, known, guards)
        elif not (isinstance(function, nodes.Name) and function.name in PURE_CALLS | self._macro_names):
            self._read(function, known, guards)
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            self.understood = False
        for argument in (*node.args, *node.kwargs):
            self._read(argument, known, guards)

    def _is_early(self, node: nodes.Expr, known: set[str]) -> bool:
        """Whether an expression has the same value before the body as where it stands."""
        for one in all_nodes(node):
            if isinstance(one, nodes.Name):
                changed = self._own | self._written | self._macro_names | PURE_CALLS
                if one.name in changed or (one.name in known and one.name != self._target):
                    return False
            elif isinstance(one, nodes.Filter):
                if one.name not in _EARLY_FILTERS:
                    return False
            elif not isinstance(one, _EARLY) or (isinstance(one, nodes.Test) and one.name in _IMPURE):
                return False
        return True

    def _add(self, node: nodes.Expr, guards: tuple[nodes.Expr, ...]) -> None:
        """Guards keep an expression from being worked out where the body would not come to it, and might fail."""
        for guard in reversed(guards):
            node = nodes.CondExpr(guard, node, nodes.Const(None))
        if node not in self.values:
            self.values.append(node)


class Places:
    """What the values of a loop depend on, beside the message and its place.

    `run` are names that keep their values all through the loop. `bounds` are numbers that a place is compared with,
    each as (expression, what is added to the place that counts from 0). A body looks `ahead` and `back` so many
    messages. `understood` is False where a value may depend on more, such as the number of all messages.
    """

    def __init__(self, values: Sequence[nodes.Expr], target: str, knows_messages: bool) -> None:
        self.run: list[nodes.Expr] = []
        self.bounds: list[tuple[nodes.Expr, int]] = []
        self.ahead = self.back = 0
        self.understood = True
        self._target, self._knows_messages = target, knows_messages
        for value in values:
            self._visit(value)

    def _visit(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Compare) and len(node.ops) == 1 and self._is_bound(node.expr, node.ops[0].expr):
            return
        if isinstance(node, nodes.Getattr) and _is_name(node.node, "loop"):
            if node.attr in ("last", "nextitem"):
                self.ahead = max(self.ahead, 1)
            elif node.attr not in _POSITIONAL:
                self.understood = False
        elif isinstance(node, nodes.Getitem) and self._knows_messages and _is_name(node.node, "messages"):
            offset = _place(node.arg)
            if offset is not None:
                self.ahead, self.back = max(self.ahead, offset), max(self.back, -offset)
            elif node.arg != nodes.Const(0):
                self.understood = False
        elif isinstance(node, nodes.Name):
            if node.name == "loop" or (node.name == "messages" and self._knows_messages):
                self.understood = False
            elif node.name != self._target and node not in self.run:
                self.run.append(node)
        else:
            for child in node.iter_child_nodes():
                self._visit(child)

    def _is_bound(self, left: nodes.Expr, right: nodes.Expr) -> bool:
        for place, number in ((left, right), (right, left)):
            offset = _place(place)
            source = number.node if isinstance(number, nodes.Getattr) else number
            if offset is not None and isinstance(source, nodes.Name) and source.name not in (self._target, "loop"):
                if (number, offset) not in self.bounds:
                    self.bounds.append((number, offset))
                return True
        return False


def _place(node: nodes.Expr) -> int | None:
    """The c of a `loop.index0 + c`, or None for any other expression."""
    if isinstance(node, nodes.Getattr) and _is_name(node.node, "loop") and node.attr in ("index0", "index"):
        return int(node.attr == "index")
    if (
        isinstance(node, nodes.Add | nodes.Sub)
        and isinstance(node.right, nodes.Const)
        and type(node.right.value) is int
    ):
        left = _place(node.left)
        step = node.right.value if isinstance(node, nodes.Add) else -node.right.value
        return None if left is None else left + step
    return None


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


def all_nodes(node: nodes.Node) -> Iterator[nodes.Node]:
    """A node and everything below it."""
    yield node
    for child in node.iter_child_nodes():
        yield from all_nodes(child)
