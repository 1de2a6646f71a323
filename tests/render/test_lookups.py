"""Look-ups and calls written in place find what Transformers' own sandbox finds, and refuse what it refuses."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import _compile_jinja_template

from agentsft.render.sandbox import compile_template

NAMES = st.sampled_from(
    ["x", "y", "x.a", "x['a']", "x[0]", "y.a.b", "ns", "ns.a", "missing", "'a b'", "{'a': x}", "x ~ ''"]
)
ATTRIBUTES = st.sampled_from(
    [
        "a",
        "b",
        "_a",
        "__class__",
        "items",
        "keys()",
        "append(1)",
        "update(x)",
        "format(1)",
        "first",
        "index0",
        "upper()",
    ]
)
CALLS = st.sampled_from(
    [
        *("strip()", "strip('a')", "split(y)[0]", "startswith('a')", "endswith(y)", "lstrip(missing)", "rstrip(x)"),
        *("replace('a', 'b', 1)", "replace('a', y)", "replace(old='a', new='b')", "split(*x)", "split(x.a)"),
        *("strip(1, 2)", "replace()"),
    ]
)
EXPRESSIONS = st.tuples(NAMES, st.lists(ATTRIBUTES | CALLS, max_size=3)).map(
    lambda parts: ".".join([parts[0], *parts[1]])
)
NAMESPACES = st.sampled_from(["a=x", "a='a b'", "_a=1", "x", "a=y, b=x", "y, a=2", ""])
LOOPED = st.sampled_from(["loop.index0", "loop.first", "loop.last", "loop.a", "loop.length", "item.a", "item.strip()"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "a b", " ab\n"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "items"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def outcome(compiled: Any, values: dict[str, Any]) -> str:
    try:
        return compiled.render(values)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, NAMESPACES, LOOPED, VALUES, VALUES)
@example("x.a.strip()", "a=x", "item.a", {"a": " b "}, "a")
@example("x.a", "a='a b'", "loop.index0", {"a": "b"}, [{"a": 1}, {}])
def test_a_template_renders_and_fails_as_in_transformers_own_sandbox(
    expression: str, namespace: str, looped: str, x: Any, y: Any
) -> None:
    text = (
        f"{{% set ns = namespace({namespace}) %}}{{{{ {expression} }}}}|{{{{ ({expression}) is string }}}}|"
        f"{{% if {expression} %}}1{{% endif %}}{{% for item in y %}}{{{{ {looped} }}}}{{% set ns.a = item %}}"
        "{% endfor %}{{ ns.a }}"
    )
    values = {"x": x, "y": y}
    assert outcome(compile_template(text), values) == outcome(_compile_jinja_template(text), values)


def test_calls_inside_calls_do_not_multiply_the_compiled_text() -> None:
    call = "x"
    for _ in range(40):
        call = f"x.strip({call})"
    assert outcome(compile_template("{{ " + call + " }}"), {"x": " a"}) == " a"
