"""The sandbox's look-ups and calls, decided once for each type: most of a template's time goes into them."""

from __future__ import annotations

from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from jinja2.tests import test_string

_OF_DICT = frozenset(dir(dict))
_OF_LOOP = frozenset({"first", "last", "index", "index0", "length"})
_OF_TEXT = frozenset({"startswith", "endswith", "split", "strip", "lstrip", "rstrip", "replace"})
_PLAIN = frozenset({str, int, bool, type(None)})


def quicken(environment: Any) -> None:
    """Let the sandbox decide once for each type and attribute, not at every access.

    Its decision looks at nothing else, as long as it is Jinja's own. A dict's keys, a loop's counters and a text's
    methods are found as the sandbox would find them, with less ado.
    """
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
    undefined = environment.undefined
    namespace = environment.globals.get("namespace")
    own_attribute = object.__getattribute__  # a namespace's own looks for what the template has stored

    def get_attribute(obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is namespace:
            value = own_attribute(obj, "_Namespace__attrs").get(attribute, obj)
            if type(value) in _PLAIN and is_safe_attribute(obj, attribute, value):
                return value
        elif kind is dict and attribute not in _OF_DICT:
            try:
                return obj[attribute]
            except KeyError:
                return undefined(obj=obj, name=attribute)
        elif (kind is LoopContext and attribute in _OF_LOOP) or (kind is str and attribute in _OF_TEXT):
            return getattr(obj, attribute)
        return look_up(obj, attribute)

    environment.getattr = get_attribute
    if type(environment).call is not SandboxedEnvironment.call:
        return
    call_safely = SandboxedEnvironment.call.__get__(environment)

    def call(context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        of_text = type(function) is BuiltinMethodType and type(function.__self__) is str
        if (of_text and function.__name__ in _OF_TEXT) or (function is namespace and not args):
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return function(*args, **kwargs)
        return call_safely(context, function, *args, **kwargs)

    environment.call = call
    if environment.code_generator_class is CodeGenerator and not environment.is_async:
        environment.code_generator_class = _InPlace


class _InPlace(CodeGenerator):
    """Writes a look-up, `message.role` or `loop.index0`, as the look-up itself, and a text's method as its call.

    `get_attribute` and `call` above would find the same, by a call for each of the dozens of every message.
    """

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        key, of = node.attr, node.node
        if isinstance(of, nodes.Name) and of.ctx == "load" and of.name == "loop" and key in _OF_LOOP:
            loop = frame.symbols.ref("loop")
            self.write(f"({loop}.{key} if type({loop}) is LoopContext else ")
            super().visit_Getattr(node, frame)
            self.write(")")
        elif key in _OF_DICT:
            super().visit_Getattr(node, frame)
        else:
            held = self.temporary_identifier()
            found = f"{held}[{key!r}] if {key!r} in {held} else environment.undefined(obj={held}, name={key!r})"
            self.write(f"(({found}) if type({held} := ")
            self.visit(of, frame)
            self.write(f") is dict else environment.getattr({held}, {key!r}))")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:  # noqa: N802
        method = node.node
        # Arguments are written twice, so they must be small.
        plain = not (node.kwargs or node.dyn_args or node.dyn_kwargs or forward_caller or frame.block_frame)
        plain = plain and all(isinstance(argument, (nodes.Const, nodes.Name)) for argument in node.args)
        if not (plain and isinstance(method, nodes.Getattr) and method.attr in _OF_TEXT):
            return super().visit_Call(node, frame, forward_caller=forward_caller)
        text = self.temporary_identifier()
        self.write(f"({text}.{method.attr}(")
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        self.write(f") if type({text} := ")
        self.visit(method.node, frame)
        self.write(f") is str else environment.call(context, environment.getattr({text}, {method.attr!r})")
        self.signature(node, frame, {"_loop_vars": "_loop_vars"} if frame.loop_frame else None)
        return self.write("))")

    def visit_Test(self, node: nodes.Test, frame: Frame) -> None:  # noqa: N802
        if node.name == "string" and self.environment.tests.get("string") is test_string and not node.args:
            self.write("isinstance(")
            self.visit(node.node, frame)
            self.write(", str)")
        else:
            super().visit_Test(node, frame)
