"""Calls and results: whether each has the other, and whether their ids agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from agentsft.data.json_text import parse_json
from agentsft.lint.finding import Finding, excerpt
from agentsft.lint.steps import Call, Result, observation_of
from agentsft.types import Message


def pairing_findings(messages: Sequence[Message], steps: Mapping[int, Sequence[Call | Result]]) -> Iterator[Finding]:
    """`steps` holds the calls and results of each assistant message.

    Calls of the last message have no result yet, and that is as it should be. The message after a call in a text is
    its result, whatever it begins with. Structured calls are paired with tool messages by id where both have one,
    else in order.
    """
    open_calls: list[Call] = []
    caller = 0
    asked_in_text = False  # results of calls in a text come in any number and form
    for i, message in enumerate(messages):
        observed = observation_of(message)
        if message.role in ("assistant", "user") and (missing := [call for call in open_calls if call.structured]):
            if observed is None:
                yield _unanswered(caller, missing, i)
            open_calls = []
        if message.role == "assistant":
            if open_calls:
                yield _unanswered(caller, open_calls, i)
            open_calls = []
            yield from _within(steps.get(i, ()), i, open_calls)
            caller, asked_in_text = i, any(not call.structured for call in open_calls)
            yield from _doubled_ids(open_calls, i)
        elif message.role == "tool":
            if not open_calls and not asked_in_text:
                yield Finding("result_without_call", i, "no open call before this result", excerpt(message.content))
            elif _answers_all(message, open_calls):
                open_calls = []
            elif open_calls and (fault := _take(open_calls, message)):
                yield Finding("mismatched_result", i, fault, excerpt(message.content))
        elif message.role == "user":
            if observed is not None and not asked_in_text and _nothing_open(steps.get(caller, ())):
                yield Finding("result_without_call", i, "no call before this observation", excerpt(message.content))
            open_calls, asked_in_text = [], False


def _nothing_open(found: Sequence[Call | Result]) -> bool:
    """Whether an assistant message ends without an open call."""
    return not found or isinstance(found[-1], Result)


def _within(found: Sequence[Call | Result], i: int, open_calls: list[Call]) -> Iterator[Finding]:
    """Pair the calls and observations inside one response; what stays open goes into `open_calls`.

    Several calls in a row are parallel ones, which one result may answer.
    """
    for step in found:
        if isinstance(step, Call):
            open_calls.append(step)
        elif open_calls:
            open_calls.clear()
        else:
            yield Finding("result_without_call", i, "no call before this observation", excerpt(step.text))


def _unanswered(caller: int, calls: Sequence[Call], before: int) -> Finding:
    names = ", ".join(call.name or "a call" for call in calls)
    return Finding("call_without_result", caller, f"message {before} follows before the result", excerpt(names))


def _doubled_ids(calls: Sequence[Call], i: int) -> Iterator[Finding]:
    for name, count in Counter(call.id for call in calls if call.id).items():
        if count > 1:
            yield Finding("mismatched_result", i, f"{count} calls of this message have the id {name!r}", name)


def _answers_all(result: Message, open_calls: Sequence[Call]) -> bool:
    """Whether one tool message without an id holds a list of as many results as there are calls."""
    if len(open_calls) < 2 or result.tool_call_id or not result.content.lstrip().startswith("["):
        return False
    try:
        value = parse_json(result.content)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and len(value) == len(open_calls)


def _take(open_calls: list[Call], result: Message) -> str | None:
    """Close the call that the result belongs to; what does not fit, or None."""
    by_id = [call for call in open_calls if call.id is not None and call.id == result.tool_call_id]
    ids = [call.id for call in open_calls if call.id]
    call = (by_id or open_calls)[0]
    open_calls.remove(call)
    if result.tool_call_id and ids and not by_id:
        return f"its id {result.tool_call_id!r} is not that of an open call ({', '.join(ids)})"
    if result.name and call.name and result.name != call.name:
        return f"it is a result of {result.name!r}, but the call is of {call.name!r}"
    return None
