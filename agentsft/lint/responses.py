"""Responses that say nothing, or nothing of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentsft.lint.finding import Finding, excerpt
from agentsft.lint.steps import after_keyword, observation_of
from agentsft.types import Message
from agentsft.weigh.labels import label_response

_SHORTEST_ECHO = 20
"""A shorter answer ("4", "Sunny") may well be its observation."""

_FINAL = re.compile(r"\W*Final Answer[ \t]*\**[ \t]*[:：]\**")


def response_finding(messages: Sequence[Message], index: int) -> Finding | None:
    """What is odd about the trained message number `index`: it is empty, or it only repeats an observation."""
    message = messages[index]
    if message.tool_calls:
        return None
    pieces = label_response(message.content)
    said = "".join(message.content[start:end] for start, end, label in pieces if label != "think").strip()
    if not said:
        thinks = message.reasoning or message.content.strip()
        detail = "there is thinking, but no answer after it" if thinks else "the response is empty"
        return Finding("empty_response", index, detail, excerpt(message.reasoning or message.content))
    last = message.content[pieces[-1][0] :] if pieces[-1][2] == "final_answer" else ""
    body = last[match.end() :] if (match := _FINAL.match(last)) else after_keyword(last)
    if last and not body.strip():
        return Finding("empty_response", index, "nothing follows the last keyword", excerpt(said, len(said)))
    observed = observation_of(messages[index - 1]) if index else None
    if observed is not None and len(observed.strip()) >= _SHORTEST_ECHO and observed.strip() in (said, body.strip()):
        return Finding("echoed_observation", index, f"the same text as message {index - 1}", excerpt(said))
    return None
