"""An episode: what the user asks, what the agent thinks and does, what the tools return, what the agent answers.

It knows no data format; agent_tasks.formats writes it in each of them.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

from agent_tasks.tools import Toolbox
from agent_tasks.world import World

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SHORT_CENTS = re.compile(r"\b\d+\.\d(?= (?:EUR|USD|GBP|CHF|CNY|SEK|PLN|CAD)\b)")


def spin(rng: random.Random, text: str) -> str:
    """`text` with one alternative of each [a|b|c] chosen, from the innermost outwards."""
    while "[" in text:
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text


@dataclass
class Call:
    """A tool call that was made, and what came back."""

    name: str
    arguments: dict[str, Any]
    observation: str


@dataclass
class Step:
    """One message of the agent: a thought and one call, or several calls at once."""

    thought: str
    calls: list[Call]

    @property
    def failed(self) -> bool:
        return any(call.observation.startswith("Error:") for call in self.calls)


@dataclass
class Exchange:
    """A question, the steps that it took, and the answer. `goal` says in half a sentence what is wanted."""

    question: str
    goal: str
    steps: list[Step] = field(default_factory=list)
    thought: str = ""
    answer: str = ""


class Episode:
    """One conversation under construction; tasks write it from top to bottom, in the order in which it happens.

    Texts hold [a|b|c] alternatives and {name} fields; fields are filled from `values`, which `ask` and `note` set.
    Amounts of money are written with two decimals.
    """

    def __init__(self, rng: random.Random, world: World) -> None:
        self.rng = rng
        self.world = world
        self.box = Toolbox(world)
        self.exchanges: list[Exchange] = []
        self.values: dict[str, Any] = {}
        self.blind = False
        """Whether the agent does not know the tables' columns."""

    def ask(self, question: str, goal: str, **values: Any) -> None:
        """The user's next message."""
        self.values |= values
        self.exchanges.append(Exchange(self._say(question), self._say(goal)))

    def note(self, **values: Any) -> None:
        """Values that later texts use."""
        self.values |= values

    def call(self, thought: str, tool: str, /, **arguments: Any) -> Any:
        """Run one tool after `thought`; its result, parsed where it is JSON."""
        return self.parallel(thought, (tool, arguments))[0]

    def parallel(self, thought: str, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """Run several tools in one message."""
        done = [Call(tool, arguments, self.box.call(tool, arguments)) for tool, arguments in calls]
        self.exchanges[-1].steps.append(Step(self._say(thought), done))
        return [_parsed(call.observation) for call in done]

    def sql(self, thought: str, query: str, *values: Any) -> Any:
        """Run a query whose {} fields are filled with `values` as SQL literals."""
        return self.call(thought, "sql", query=query.format(*map(_literal, values)))

    def answer(self, thought: str, answer: str, **values: Any) -> None:
        """The agent's last message of this exchange."""
        self.values |= values
        self.exchanges[-1].thought, self.exchanges[-1].answer = self._say(thought), self._say(answer)

    @property
    def tools(self) -> list[str]:
        """The tools that were used, in order of first use."""
        steps = [step for exchange in self.exchanges for step in exchange.steps]
        return list(dict.fromkeys(call.name for step in steps for call in step.calls))

    def _say(self, text: str) -> str:
        return _SHORT_CENTS.sub(r"\g<0>0", spin(self.rng, text).format(**self.values))


def _literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def listing(items: list[str], last: str = " and ", comma: str = ", ") -> str:
    """The items as prose: a, b and c."""
    return comma.join(items[:-1]) + last + items[-1] if len(items) > 1 else items[0]
