"""Prefixes rendered with reuse are, byte for byte, what the plain template gives for each of them."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.runtime import LoopContext
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from agentsft.errors import RowError, UserError
from agentsft.render import template as template_module
from agentsft.render.probe import probe
from agentsft.render.reuse import Memory, ReusingTemplate
from agentsft.render.template import Template
from agentsft.render.turns import Renderer
from agentsft.types import Conversation, Message
from tests import assets
from tests.families import TEXT_TEMPLATES

TOKENIZER: Any = SimpleNamespace(special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"}, chat_template=None)
TOOLS = [{"type": "function", "function": {"name": name, "description": "D", "parameters": {}}} for name in ("f", "g")]

PRELUDES = (
    "{% set ns = namespace(a=1, b='', seen=false) %}",
    "{% set ns = namespace(a=messages|length - 2, b='', seen=false) %}",
    "{% set ns = namespace(a=0, b='', seen=false) %}{% for m in messages[::-1] %}"
    "{% if m.role == 'user' and not ns.seen %}{% set ns.seen = true %}{% set ns.a = messages|length - loop.index %}"
    "{% endif %}{% endfor %}",
)
SETTINGS = (
    "",
    "{% set x = messages[0].content %}",
    "{% set x = messages[-1].content %}",
    "{% set messages = messages[1:] %}",
    "{% set turn = cycler('a', 'b') %}",
    "{% for tool in tools or [] %}{{ tool | tojson }}{{ loop.last }}{% endfor %}",
    "{% macro shout(text) %}{{ text }}!{{ flag }}{% endmacro %}",
    "{% macro shout(text) %}{{ text }}{{ messages|length }}{% endmacro %}",
    "{% macro shout(text) %}{{ x }}{% set x = text %}{{ x }}{% endmacro %}",
    "{% macro shout(text) %}{% set ns.b = ns.b + 'm' %}{{ ns.b }}{% endmacro %}",
)
SOURCES = ("messages", "messages", "messages[1:]", "messages[::-1]", "(messages + messages)", "(messages|list)")
BODIES = (
    "{{ loop.index }}",
    "{{ loop.revindex }}",
    "{{ loop.length }}",
    "{{ loop }}",
    "{% if loop.last %}L{% endif %}",
    "{% if loop.first %}F{% endif %}",
    "{% if not loop.first and messages[loop.index0 - 1].role == message.role %}S{% endif %}",
    "{% if not loop.last and messages[loop.index0 + 1].role == 'tool' %}T{% endif %}",
    "{% if messages[loop.index0 + 2] is defined %}D{% endif %}",
    "{{ messages[loop.index0 - 2].role }}",
    "{{ messages[loop.index0 + 1].role }}",
    "{% if message.role == 'user' %}{{ messages[loop.index].role }}{% endif %}",
    "{% if loop.index0 > ns.a %}G{% endif %}",
    "{% if loop.index <= ns.a %}g{% endif %}",
    "{{ ns.a == loop.index0 }}",
    "{{ ns.a - loop.index0 }}",
    "{% if loop.index0 > ns.a %}{% set ns.a = ns.a + 2 %}{% endif %}",
    "{% set ns.b = ns.b + message.role %}{{ ns.b }}",
    "{{ ns.b }}",
    "{% set ns.seen = message %}{{ ns.seen.content }}",
    "{% set ns.seen = [message.role] %}",
    "{{ loop.nextitem.content if loop.nextitem is defined }}",
    "{{ loop.previtem.role if loop.previtem }}",
    "{% if message.role == 'user' %}{% set x = message.content %}{% endif %}{{ x }}",
    "{{ x }}{% set x = message.content %}{{ x }}",
    "{% set y = x %}{{ y }}",
    "{{ messages|length }}",
    "{{ messages[-1].role }}",
    "{{ messages[0].content }}",
    "{{ tools|length if tools }}",
    "{% if add_generation_prompt %}P{% endif %}",
    "{{ flag }}",
    "{% for m in messages %}{{ loop.index }}{{ m.role }}{% endfor %}",
    "{% for part in message.content %}{{ loop.index }}{% if loop.last %}{{ part }}{% endif %}{% endfor %}",
    "{{ shout(message.content) if shout is defined }}",
    "{{ loop.changed(message.role) }}",
    "{{ loop.cycle('a', 'b') }}",
    "{{ turn.next() if turn is defined }}",
    "{% if message.role == 'tool' %}{% continue %}{% endif %}",
    "{% if loop.index > 3 %}{% break %}{% endif %}",
    "{% set q = loop %}{{ q.index }}{{ q.last }}",
    "{% set all = messages %}{{ all|length }}",
    "{% if message.content == 'bad' %}{{ raise_exception('bad') }}{% endif %}",
)
ENDS = ("", "{% if add_generation_prompt %}<assistant>{% endif %}", "{{ ns.a }}{{ ns.b }}{{ x }}{{ message }}")


def rendered(render: Any, *arguments: Any) -> str:
    try:
        return "text " + render(*arguments)
    except RowError as error:
        return f"error {error.detail}"


@lru_cache(maxsize=4)
def template_of(text: str) -> Template:
    return Template(TOKENIZER, text)


def assert_prefixes_equal(text: str, messages: list[dict[str, Any]], tools: Any, calls: list[Any]) -> Template:
    """Render prefixes of the messages both ways, and compare; the template that may have reused."""
    template = template_of(text)
    reusing = template._reusing
    prefixes = template.prefixes(messages, tools, 100)
    for count, prompt, kwargs in calls:
        wanted = rendered(template.render, messages[:count], tools, prompt, kwargs)
        assert rendered(prefixes.render, count, prompt, kwargs) == wanted, (text, count, prompt, kwargs)
    prefixes.check()
    template._reusing = reusing
    return template


messages_of = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "tool", "system"]),
            "content": st.sampled_from(["a", "b", "", "bad", "<think>\nt\n</think>\n\nc"]),
        }
    ),
    min_size=2,
    max_size=7,
)
kwargs_of = st.sampled_from([{}, {}, {"flag": True}, {"flag": 1}, {"flag": "1"}, {"enable_thinking": False}])


@st.composite
def calls_of(draw: Any, count: int) -> list[Any]:
    """Prefixes in rising order, as in use, or in any."""
    calls = [(k, prompt, draw(kwargs_of)) for k in range(1, count + 1) for prompt in (True, False)]
    return draw(st.permutations(calls)) if draw(st.booleans()) else calls


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_template_gives_the_same_with_and_without_reuse(data: Any) -> None:
    draw = data.draw
    text = draw(st.sampled_from(PRELUDES)) + "".join(draw(st.lists(st.sampled_from(SETTINGS), max_size=2)))
    for _ in range(draw(st.integers(1, 2))):
        body = "".join(draw(st.lists(st.sampled_from(BODIES), max_size=4)))
        text += (
            f"{{% for message in {draw(st.sampled_from(SOURCES))} %}}[{{{{ message.content }}}}{body}]{{% endfor %}}"
        )
    text += draw(st.sampled_from(ENDS))
    messages = draw(messages_of)
    assert_prefixes_equal(text, messages, draw(st.sampled_from([None, TOOLS])), draw(calls_of(len(messages))))


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_every_models_template_gives_the_same_with_and_without_reuse(name: str) -> None:
    text = assets.templates()[name]
    for seed in range(4):
        messages = conversation(random.Random(seed), 12)
        calls = [(k, prompt, {}) for k in range(1, len(messages) + 1) for prompt in (True, False)]
        assert_prefixes_equal(text, messages, TOOLS if seed % 2 else None, calls)


def conversation(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """A system prompt, then users, assistants that think or call tools, and tools' results."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "S"}] if chance.random() < 0.7 else []
    while len(messages) < count:
        messages.append({"role": "user", "content": f"U{len(messages)}"})
        for _ in range(chance.randrange(3)):
            call = {"type": "function", "function": {"name": "f", "arguments": {"k": len(messages)}}}
            thought = {"reasoning_content": "R", "thinking": "R"} if chance.random() < 0.5 else {}
            messages.append({"role": "assistant", "content": chance.choice(["", "x"]), "tool_calls": [call], **thought})
            messages += [{"role": "tool", "content": f"T{n}", "name": "f"} for n in range(chance.randrange(1, 3))]
        messages.append({"role": "assistant", "content": chance.choice(["A", "<think>\nq\n</think>\n\nA"])})
    return messages


@pytest.mark.parametrize("name", ["smollm2", "qwen3", "qwen2_5", "llama3_2", "phi3", "gemma3"])
def test_a_rendering_runs_only_the_bodies_of_the_newest_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = assets.smollm2_tokenizer().chat_template if name == "smollm2" else assets.templates()[name]
    marked = []
    real = ReusingTemplate._mark
    monkeypatch.setattr(ReusingTemplate, "_mark", lambda self, *a: marked.append(a) or real(self, *a))
    messages = [{"role": role, "content": f"{k}"} for k in range(30) for role in ("user", "assistant")]
    calls = [(k, k % 2 == 1, {}) for k in range(1, len(messages) + 1)]
    assert_prefixes_equal(text, messages, None, calls)
    assert len(calls) <= len(marked) <= 5 * len(calls)


def digits(last: str = "77") -> Conversation:
    texts = [*(str(k) for k in range(13)), last]
    return Conversation(tuple(Message(role, text) for text in texts for role in ("user", "assistant")))


def renderer_with(monkeypatch: pytest.MonkeyPatch, change: Any) -> Renderer:
    """A renderer whose reused texts go through `change`."""
    tokenizer = assets.qwen_tokenizer()
    template = Template(tokenizer)
    assert template._reusing is not None
    real = template._reusing.render
    monkeypatch.setattr(template._reusing, "render", lambda *a: change(real(*a)))
    return Renderer(template, probe(template, tokenizer))


def test_a_wrong_last_text_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = renderer_with(monkeypatch, lambda text: text.replace("77", "88"))
    with pytest.raises(UserError, match="AGENTSFT_PLAIN_RENDERING=1"):
        renderer.turns(digits(), range(1, 28, 2))


def test_wrong_texts_before_the_last_stop_the_run_within_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(text: str) -> str:
        """Another history for the fourth turn alone."""
        return text.replace("0", "9") if "user\n3" in text and "user\n4" not in text else text

    renderer = renderer_with(monkeypatch, change)

    def rows() -> None:
        for number in range(30):
            renderer.turns(digits(f"last {number}"), range(1, 28, 2))

    with pytest.raises(UserError, match="report this template"):
        rows()


def test_plain_rendering_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSFT_PLAIN_RENDERING", "1")
    assert Template(assets.qwen_tokenizer())._reusing is None


def test_values_that_a_template_can_tell_apart_have_different_facts() -> None:
    environment: Any = Template(TOKENIZER, "")._compiled.environment
    space = environment.globals["namespace"]
    message = {"role": "user"}
    memory = Memory([message, dict(message)], None)
    values = [True, 1, "1", "True", None, "", 0, False, memory._kept[0], memory._kept[1], space(), space(a=1)]
    values += [space(a=True), space(b=1), environment.undefined(name="a"), environment.undefined(name="b")]
    facts = [memory.fact(value) for value in values]
    assert None not in facts
    assert len(set(facts)) == len(facts)
    for value in (1.0, [], {}, dict(message), Markup("a"), space(a=[]), space(a=space()), loop_of(), len):
        assert memory.fact(value) is None, value


def loop_of() -> Any:
    return LoopContext([1], SandboxedEnvironment().undefined)


def test_short_conversations_are_rendered_plainly() -> None:
    template = Template(TOKENIZER, "{% for message in messages %}{{ message.content }}{% endfor %}")
    assert template._reusing is not None
    for turns in (1, template_module.REUSE_FROM - 1, template_module.REUSE_FROM):
        prefixes = template.prefixes([{"content": "a"}], None, turns)
        assert prefixes.render(1, False) == "a"
        assert bool(prefixes._made) == (turns >= template_module.REUSE_FROM)


def test_attributes_are_found_as_the_sandbox_finds_them() -> None:
    environment: Any = Template(TOKENIZER, "")._compiled.environment
    space = environment.globals["namespace"](a=1, b="{}", items=2)
    loop = LoopContext([1, 2], environment.undefined)
    next(loop)
    objects = ({"role": "r", "items": 3, "_x": 4, "format": 5}, {}, space, loop, "text {}", 7, None, [1], environment)
    names = ("role", "items", "keys", "_x", "__class__", "format", "format_map", "strip", "startswith", "update")
    for obj in objects:
        for name in (*names, "a", "b", "first", "last", "index0", "length", "append", "mro", "getattr"):
            wanted = SandboxedEnvironment.getattr(environment, obj, name)
            found = environment.getattr(obj, name)
            assert type(found) is type(wanted), (obj, name)
            if not callable(found):
                assert getattr(found, "_undefined_message", found) == getattr(wanted, "_undefined_message", wanted)


def test_a_texts_methods_are_called_as_the_sandbox_calls_them() -> None:
    text = "{{ m.strip('x').split(',', 1) }}{{ m.startswith('x') }}{{ m.replace('a', 'b', 1) }}{{ '{}'.format(m) }}"
    template = Template(TOKENIZER, text)
    assert template.render([], None, False, {"m": "xa,a,ax"}) == "['a', 'a,a']Truexb,a,axxa,a,ax"
    with pytest.raises(RowError, match="strip"):
        Template(TOKENIZER, "{{ m.strip(1) }}").render([], None, False, {"m": "x"})


def test_remembered_json_is_that_of_each_value_in_each_form() -> None:
    forms: dict[str, dict[str, Any]] = {
        "": {},
        "(indent=2)": {"indent": 2},
        "(separators=(',', ':'))": {"separators": (",", ":")},
        "(ensure_ascii=true)": {"ensure_ascii": True},
        "(sort_keys=true)": {"sort_keys": True},
    }
    call = "message.tool_calls[0].function.arguments"
    shown = [f"{{{{ {one} | tojson{form} }}}}" for one in (call, "tools", "tools[-1]") for form in forms]
    template = Template(TOKENIZER, "{% for message in messages %}" + "|".join([*shown, ""]) + "{% endfor %}")
    for number in range(3):  # each conversation has values of its own, some of them equal
        values: list[Any] = [{"b": k + number, "a": "é"} for k in range(3)] + [{"b": 0, "a": "é"}]
        calls = [{"role": "assistant", "tool_calls": [{"function": {"arguments": one}}]} for one in values]
        tools = values[::-1]
        prefixes = template.prefixes(calls, tools, len(calls))
        for count in (1, 4, 2, 4):
            expected = [
                json.dumps(value, **{"ensure_ascii": False, **form})
                for one in values[:count]
                for value in (one, tools, tools[-1])
                for form in forms.values()
            ]
            assert prefixes.render(count, False).split("|")[:-1] == expected
