"""Kinds of conversation that agents have, each small, for every template."""

from __future__ import annotations

from agentsft.types import Conversation, Message, ToolCall

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city."},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Unit of the answer."},
            },
            "required": ["city"],
        },
    },
}


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, reasoning: str | None = None) -> Message:
    return Message("assistant", text, reasoning)


def call(*cities: str, text: str = "", reasoning: str | None = None) -> Message:
    calls = tuple(ToolCall("get_weather", {"city": city}, f"call{number:05d}") for number, city in enumerate(cities))
    return Message("assistant", text, reasoning, calls)


def result(text: str, number: int = 0) -> Message:
    return Message("tool", text, tool_call_id=f"call{number:05d}", name="get_weather")


def _with_tools(*messages: Message, **kwargs: object) -> Conversation:
    return Conversation(messages, (WEATHER,), dict(kwargs))


def _plain(*messages: Message, **kwargs: object) -> Conversation:
    return Conversation(messages, (), dict(kwargs))


KINDS: dict[str, Conversation] = {
    "plain": _plain(user("What is 2+2?"), answer("It is 4.")),
    "system": _plain(system("Be brief."), user("What is 2+2?"), answer("4"), user("And 3+3?"), answer("6")),
    "several user turns": _plain(user("Hi"), answer("Hello!"), user("1+1?"), answer("2"), user("Bye"), answer("Bye!")),
    "inline thinking": _plain(user("2+2?"), answer("<think>\nTwo and two make four.\n</think>\n\nIt is 4.")),
    "empty think": _plain(user("2+2?"), answer("<think>\n\n</think>\n\nIt is 4.")),
    "reasoning": _plain(user("2+2?"), answer("It is 4.", "Two and two make four.")),
    "reasoning in several turns": _plain(
        user("2+2?"),
        answer("It is 4.", "Two and two make four."),
        user("3+3?"),
        answer("It is 6.", "Three and three make six."),
    ),
    "tool call": _with_tools(user("Weather in Bonn?"), call("Bonn"), result('{"t": 21}'), answer("21 degrees.")),
    "system and tool call": _with_tools(
        system("Use the tools."), user("Weather in Bonn?"), call("Bonn"), result('{"t": 21}'), answer("21 degrees.")
    ),
    "text beside a call": _with_tools(
        user("Weather in Bonn?"), call("Bonn", text="I look it up."), result('{"t": 21}'), answer("21 degrees.")
    ),
    "parallel calls": _with_tools(
        user("Bonn and Rome?"), call("Bonn", "Rome"), result("21"), result("30", 1), answer("21 and 30 degrees.")
    ),
    "tool loop": _with_tools(
        user("Which is warmer, Bonn or Rome?"), call("Bonn"), result("21"), call("Rome"), result("30"), answer("Rome.")
    ),
    "tool loop with reasoning": _with_tools(
        user("Which is warmer, Bonn or Rome?"),
        call("Bonn", reasoning="First Bonn."),
        result("21"),
        call("Rome", reasoning="Now Rome."),
        result("30"),
        answer("Rome.", "30 is more than 21."),
    ),
    "tools, two user turns": _with_tools(
        user("Bonn?"),
        call("Bonn"),
        result("21"),
        answer("21."),
        user("Rome?"),
        call("Rome"),
        result("30"),
        answer("30."),
    ),
    "ends on a tool message": _with_tools(user("Weather in Bonn?"), call("Bonn"), result('{"t": 21}')),
    "ends on a user message": _plain(user("Hi"), answer("Hello!"), user("Never mind.")),
    "greeting first": _plain(answer("Welcome!"), user("2+2?"), answer("4")),
    "non-ASCII": _plain(user("Ärger mit 数字 🙂?"), answer("Größe: 3 × 2 = 6, 好的 👍🏽")),
    "per-row kwargs": _plain(user("2+2?"), answer("It is 4."), enable_thinking=False),
}
