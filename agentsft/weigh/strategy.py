"""One strategy: a table of patterns with weights, and the pieces that it cuts a response into."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import Any

from agentsft.errors import UserError

PATTERN_SECONDS = 5.0
"""A table from outside whose patterns search one response for longer than this stops the run."""

Pieces = list[tuple[int, float]]
"""(end, weight) of the pieces of a text, in order: the first starts at 0, each other one where the last ended."""


@dataclass(frozen=True)
class Regex:
    """A regular expression (DOTALL) and the weight of what it matches, anywhere or at the start of a response alone.

    `compiled` is a `re.Pattern`, or a `regex.Pattern` for tables from outside, since that one knows time-outs. `ends`
    holds (opening, closing, least number of characters between) where the expression is two literals around `.+?` or
    `.*?`: these are found in linear time, where `re` takes the square of it if openings are never closed.
    """

    text: str
    weight: float
    at_start: bool
    compiled: Any
    ends: tuple[str, str, int] | None
    where: str

    def find(self, response: str, position: int, deadline: float) -> tuple[int, int] | None:
        """(start, end) of the first match from `position` on that is not empty.

        Raises UserError where a pattern from outside searches beyond `deadline` (of time.monotonic()).
        """
        if self.at_start and position:
            return None
        if self.ends and not self.at_start:
            opening, closing, between = self.ends
            start = response.find(opening, position)
            close = response.find(closing, start + len(opening) + between) if start >= 0 else -1
            return (start, close + len(closing)) if close >= 0 else None
        guarded = not isinstance(self.compiled, re.Pattern)
        timeout = {"timeout": max(deadline - monotonic(), 1e-3)} if guarded else {}
        try:
            if self.at_start:
                match = self.compiled.match(response, **timeout)
                return match.span() if match and match.end() else None
            matches = self.compiled.finditer(response, position, **timeout)
            return next((match.span() for match in matches if match.end() > match.start()), None)
        except TimeoutError:
            raise UserError(
                f"{self.where}: the pattern {self.text!r} searched one response for more than {PATTERN_SECONDS:g} s;"
                " write it without repeats inside repeats."
            ) from None


@dataclass(frozen=True)
class Strategy:
    """A named table. `origin` says where it is from: `built in`, `plugin PACKAGE` or `file PATH`.

    `keywords` holds (keyword, its own weight, the weight of the text after it up to the next keyword), `regexes` the
    expressions in the order in which they are tried, `queries` (phrase, weight of the whole response to a query that
    holds it).
    """

    name: str
    origin: str
    description: str
    keywords: tuple[tuple[str, float, float], ...] = ()
    regexes: tuple[Regex, ...] = ()
    queries: tuple[tuple[str, float], ...] = ()

    @property
    def rows(self) -> list[tuple[str, str, tuple[float, ...]]]:
        """The table for people: (kind, pattern, weights), kind being keyword, regex, regex at start or query."""
        rows: list[tuple[str, str, tuple[float, ...]]] = []
        rows += [("keyword", keyword, (own, after)) for keyword, own, after in self.keywords]
        rows += [("regex at start" if r.at_start else "regex", r.text, (r.weight,)) for r in self.regexes]
        rows += [("query", phrase, (weight,)) for phrase, weight in self.queries]
        return rows

    @property
    def largest_weight(self) -> float:
        """No character gets a larger weight: keywords and expressions multiply, a query stands alone."""
        keyword = max([1.0, *(weight for _, own, after in self.keywords for weight in (own, after))])
        expression = max([1.0, *(regex.weight for regex in self.regexes)])
        return max([keyword * expression, *(weight for _, weight in self.queries)])

    def pieces(self, response: str, query: str | None) -> Pieces:
        """The response (not empty) cut by weight.

        A query that holds a phrase weighs the whole response, the first phrase of the table deciding. Else keywords
        and expressions each cut the whole response, and their weights multiply. Where several match, the leftmost
        wins; at one place the longest keyword, or the expression that comes first in the table. Matches do not
        overlap, and empty ones do not count.
        """
        for phrase, weight in self.queries:
            if query and phrase in query:
                return [(len(response), weight)]
        pieces: Pieces = [(len(response), 1.0)]
        if self.keywords:
            pieces = self._keyword_pieces(response)
        if self.regexes:
            expressions = self._regex_pieces(response)
            pieces = multiply(pieces, expressions) if self.keywords else expressions
        return pieces

    @cached_property
    def _keyword_weights(self) -> dict[str, tuple[float, float]]:
        return {keyword: (own, after) for keyword, own, after in self.keywords}

    @cached_property
    def _keyword_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._keyword_weights, key=len, reverse=True))))

    def _keyword_pieces(self, response: str) -> Pieces:
        pieces: Pieces = []
        here, weight = 0, 1.0
        for match in self._keyword_pattern.finditer(response):
            start, end = match.span()
            own, after = self._keyword_weights[match.group()]
            if own != weight and start > here:
                pieces.append((start, weight))
                here = start
            if own != after:
                pieces.append((end, own))
                here = end
            weight = after
        if here < len(response):
            pieces.append((len(response), weight))
        return pieces

    def _regex_pieces(self, response: str) -> Pieces:
        pieces: Pieces = []
        here = 0
        deadline = monotonic() + PATTERN_SECONDS
        matches = [regex.find(response, 0, deadline) for regex in self.regexes]
        while True:
            first = None
            for i, regex in enumerate(self.regexes):
                match = matches[i]
                if match and match[0] < here:
                    match = matches[i] = regex.find(response, here, deadline)
                if match and (first is None or match[0] < first[0]):
                    first, weight = match, regex.weight
            if first is None:
                break
            start, end = first
            if start > here:
                pieces.append((start, 1.0))
            pieces.append((end, weight))
            here = end
        if here < len(response):
            pieces.append((len(response), 1.0))
        return pieces


def multiply(left: Pieces, right: Pieces) -> Pieces:
    """Two ways of cutting one text, joined: every border of both, and the products of the weights between them."""
    pieces: Pieces = []
    i = j = 0
    while i < len(left):
        end = min(left[i][0], right[j][0])
        pieces.append((end, left[i][1] * right[j][1]))
        i, j = i + (left[i][0] == end), j + (right[j][0] == end)
    return pieces
