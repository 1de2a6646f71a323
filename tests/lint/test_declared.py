"""Tools that only the words of a prompt declare are found as well."""

from __future__ import annotations

import json

import pytest

from agentsft.data.agent_format import AGENT_FORMATS, fold
from agentsft.lint.declared import declared_tools
from agentsft.types import Conversation, Message
from tests.conversations import KINDS, WEATHER, user

FUNCTION = WEATHER["function"]
FORMS = {
    "one of": ("Action: should be one of [get_weather, 'get_time', `stop`]", {"get_weather", "get_time", "stop"}),
    "one of in parentheses": ("Action: tool name (one of a, b, c) if using a tool.", {"a", "b", "c"}),
    "JSON": (f"You have these tools: {json.dumps([FUNCTION])}\nBegin!", {"get_weather"}),
    "JSON over several lines": (f"the following functions:\n{json.dumps([WEATHER], indent=1)}", {"get_weather"}),
    "Python": (f"access to the following APIs: {[FUNCTION, {'name': 'Finish'}]}\nBegin!", {"get_weather", "Finish"}),
    "Hermes": (f'<tools>\n{json.dumps(WEATHER)}\n{{"name": "b"}}\n</tools>', {"get_weather", "b"}),
    "LlamaIndex": ('> Tool Name: a\nTool Args: {"required": ["x"]}\n\n> Tool Name: b\n', {"a", "b"}),
    "an unfilled slot": ("one of [{tool_names}]", None),
    "dots": ("one of [...]", None),
    "no list": ("Use tools: [see below]. APIs: [{broken", None),
    "hostile nesting": ("tools: [{" + "[" * 5000, None),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("role", ["system", "user"])
def test_the_tools_of_a_prompt(form: str, role: str) -> None:
    text, names = FORMS[form]
    found = declared_tools(Conversation((Message(role, text), Message("assistant", "x"))))
    assert (set(found) if found else None) == names
    if found and "get_weather" in found and form != "one of":
        assert found["get_weather"] == FUNCTION["parameters"]
    if form == "LlamaIndex":
        assert found == {"a": {"required": ["x"]}, "b": None}


@pytest.mark.parametrize("agent_format", [name for name in AGENT_FORMATS if name])
def test_what_an_agent_format_writes_is_read_back(agent_format: str) -> None:
    folded = fold(KINDS["tool call"], agent_format)
    assert not folded.tools
    assert set(declared_tools(folded) or ()) == {"get_weather"}


def test_declared_tools_of_the_row_win_and_no_list_is_none() -> None:
    assert declared_tools(Conversation((user("one of [a, b]"),), (WEATHER,))) == {"get_weather": FUNCTION["parameters"]}
    assert declared_tools(Conversation((user("Hi"),))) is None
