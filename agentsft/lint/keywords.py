"""A strategy's keywords inside data, where they change the weight although no step begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agentsft.lint.finding import Finding, excerpt
from agentsft.lint.steps import after_keyword
from agentsft.types import Message
from agentsft.weigh.labels import label_response
from agentsft.weigh.loss_scale import LossScale
from agentsft.weigh.strategy import Strategy

_PLACES = {
    "action_input": "arguments",
    "tool_call": "a call",
    "observation": "an observation",
    "think": "thinking",
}


class KeywordRule:
    """Looks for the patterns of a `--loss-scale` where they are data: in arguments, observations and thinking."""

    def __init__(self, loss_scale: LossScale) -> None:
        self._strategies = [_anywhere(strategy) for strategy in loss_scale.strategies]
        self._keywords = [_Keywords(strategy) for strategy in loss_scale.strategies if strategy.keywords]

    def findings(self, message: Message, index: int) -> Iterator[Finding]:
        """At most one finding for each strategy and place of an assistant message, the first of its kind."""
        content = message.content
        for keywords in self._keywords:
            places = set()
            for start, word, place in keywords.misplaced(content):
                if place not in places:
                    places.add(place)
                    yield _finding(index, word, keywords.name, place, content, start)
        data = [("arguments", text) for call in message.tool_calls for text in _texts(call.arguments)]
        if message.reasoning:
            data.append(("thinking", message.reasoning))
        seen = set()
        for place, text in data:
            for strategy in self._strategies:
                if (place, strategy.name) not in seen and (hit := _first_change(strategy, text)):
                    seen.add((place, strategy.name))
                    yield _finding(index, hit[1], strategy.name, place, text, hit[0])


class _Keywords:
    """The keywords of one strategy, as it finds them: literally, the longest at one place."""

    def __init__(self, strategy: Strategy) -> None:
        self.name = strategy.name
        self._weights = {keyword: (own, after) for keyword, own, after in strategy.keywords}
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._weights, key=len, reverse=True))))

    def misplaced(self, content: str) -> Iterator[tuple[int, str, str]]:
        """(position, keyword, place) of each keyword in a response's data that changes the weight there."""
        matches = list(self._pattern.finditer(content))
        if not matches:
            return
        pieces = iter(label_response(content))
        start, end, label = next(pieces)
        weight = 1.0
        for match in matches:
            while match.start() >= end:
                start, end, label = next(pieces)
            own, after = self._weights[match.group()]
            changes = (own, after) != (weight, weight)
            weight = after
            place = _PLACES.get(label)
            if label == "action" and "[" in content[start : match.start()]:
                place = "arguments"  # search[...], ReAct's first form
            if changes and place and match.start() > start:  # the keyword at the piece's start opens it
                yield match.start(), match.group(), place


def _anywhere(strategy: Strategy) -> Strategy:
    """The strategy without what looks at the start of a response, or at the query, alone."""
    return replace(strategy, regexes=tuple(regex for regex in strategy.regexes if not regex.at_start), queries=())


def _texts(value: Any) -> Iterator[str]:
    """All texts in arguments, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _first_change(strategy: Strategy, text: str) -> tuple[int, str] | None:
    """(position, text) of the first place where a strategy that found weight 1 before changes it inside `text`.

    The literals of an expression such as `<tool_call>.+?</tool_call>` count alone too: the other one may follow.
    """
    found = [(text.find(literal), literal) for regex in strategy.regexes if regex.ends for literal in regex.ends[:2]]
    start = 0
    for end, weight in strategy.pieces(text, None) if text else ():
        if weight != 1:
            found.append(
                (start, next((k for k, *_ in strategy.keywords if text.startswith(k, start)), text[start:end]))
            )
            break
        start = end
    return min((hit for hit in found if hit[0] >= 0), default=None)


def _finding(index: int, word: str, strategy: str, place: str, text: str, at: int) -> Finding:
    detail = f"{excerpt(word, size=30)!r} inside {place} changes the weight ({strategy})"
    return Finding("misplaced_keyword", index, detail, excerpt(text, at))


def trained_observation(loss_scale: LossScale, content: str, query: str | None, index: int) -> Finding | None:
    """The first observation inside a response whose text has a weight above 0."""
    if "bservation" not in content and "response" not in content and "RESULT" not in content:
        return None
    before = None
    for span in loss_scale.spans(content, query):
        text = content[span.start : span.end]
        if span.label == "observation" and span.weight > 0:
            text = text if before == "observation" else after_keyword(text.removeprefix("<tool_response>"))
            if text.strip():
                detail = f"an observation in the response has weight {span.weight:g}; --data-format react splits there"
                return Finding("trained_observation", index, detail, excerpt(content, span.start))
        before = span.label
    return None
