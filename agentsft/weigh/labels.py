"""What the parts of a response are, whatever they weigh: thinking, calls, ReAct's steps, or plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable

_THINK = {
    "<think>": "</think>",
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "<|channel>thought\n": "<channel|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "[THINK]": "[/THINK]",
}
_CALL = {
    "<tool_call>": "</tool_call>",
    "<seed:tool_call>": "</seed:tool_call>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<atem:function_calls>": "</atem:function_calls>",
    "<function=": "</function>",
    "<|tool_call>": "<tool_call|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
    "<|START_ACTION|>": "<|END_ACTION|>",
    "<|python_tag|>": "",
    "[TOOL_CALLS]": "",
}
_RESULT = {
    "<tool_response>": "</tool_response>",
    "<|tool_response>": "<tool_response|>",
}
_BLOCKS = {
    opening: (closing, label)
    for label, pairs in (("think", _THINK), ("tool_call", _CALL), ("observation", _RESULT))
    for opening, closing in pairs.items()
}
"""Opening marker -> (closing marker, label). No closing marker: the block runs to the end of the response."""

_SECTIONS = {
    "Thought": "thought",
    "Action": "action",
    "Action Input": "action_input",
    "Observation": "observation",
    "Final Answer": "final_answer",
    "✿FUNCTION✿": "action",
    "✿ARGS✿": "action_input",
    "✿RESULT✿": "observation",
    "✿RETURN✿": "final_answer",
}
"""Keyword -> label of all that follows, up to the next keyword or block."""

_STEP = r"[ \t]*+(?:\*++[ \t]*+)?+(Thought|Action Input|Action|Observation|Final Answer)[ \t]*+\*{0,2}[ \t]*+[:：]"
_FIRST_LINE = re.compile(_STEP)


def _any_of(literals: Iterable[str]) -> list[re.Pattern[str]]:
    """One pattern for each first character: a pattern that begins with a literal is searched many times faster."""
    groups: dict[str, list[str]] = {}
    for literal in literals:
        groups.setdefault(literal[0], []).append(re.escape(literal))
    return [re.compile(f"({'|'.join(group)})") for group in groups.values()]


_MARKERS = [re.compile(r"\n" + _STEP), *_any_of([*_BLOCKS, *(keyword for keyword in _SECTIONS if keyword[0] == "✿")])]
_OPENING_OF = {closing: opening for opening, closing in _THINK.items()}
_END_OF_THINKING = _any_of(_OPENING_OF)

_BARE_CALL = re.compile(r'\s*\{"name": "[^"\n]+", "(?:parameters|arguments)": ')
_RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
_NOT_SPACE = re.compile(r"\S")


def label_response(response: str) -> list[tuple[int, int, str]]:
    """The response cut into (start, end, label), in order and without gaps; an empty response gives [].

    Labels are `think`, `thought`, `action`, `action_input`, `tool_call`, `observation`, `final_answer` and `text`.
    A block runs from its opening marker to its closing one, or to the end where it is not closed; white space after a
    think block belongs to it. A response that closes a think block which it did not open starts inside it, since the
    prompt opened it. ReAct's keywords count at the start of a line, outside blocks, bold or not, with either colon;
    Qwen's flowers count anywhere. In formats with `<|message|>` headers (gpt-oss) a message is thinking or a call
    as its channel and recipient say. Time is linear in the response.
    """
    pieces: list[tuple[int, int, str]] = []
    if "<|message|>" in response:
        _label_messages(response, pieces)
    elif _BARE_CALL.match(response):
        pieces.append((0, len(response), "tool_call"))
    else:
        _label_text(response, 0, len(response), pieces)
    return pieces


def _label_messages(response: str, pieces: list[tuple[int, int, str]]) -> None:
    """Append the pieces of a response that is one or more messages, each `header<|message|>content`."""
    start = 0
    while start < len(response):
        end = response.find("<|start|>", start + 1)
        end = len(response) if end < 0 else end
        content = response.find("<|message|>", start, end)
        header = response[start:content] if content >= 0 else ""
        recipient = _RECIPIENT.search(header)
        name = recipient.group(1) if recipient else "user"
        if name == "self" or (name == "user" and "<|channel|>analysis" in header):
            pieces.append((start, end, "think"))
        elif name != "user":
            pieces.append((start, end, "tool_call"))
        else:
            _label_text(response, start, end, pieces)
        start = end


def _label_text(response: str, start: int, end: int, pieces: list[tuple[int, int, str]]) -> None:
    """Append the pieces of response[start:end], which knows blocks and keywords alone."""
    here, label = start, "text"

    def cut(position: int, next_label: str) -> None:
        nonlocal here, label
        if position > here:
            pieces.append((here, position, label))
            here = position
        label = next_label

    resume = _end_of_opened_thinking(response, start, end)
    if resume > start:
        pieces.append((start, resume, "think"))
        here = resume
    for position, marker in _markers(response, start, end):
        if position < resume:
            continue
        if marker in _SECTIONS:
            cut(position, _SECTIONS[marker])
            continue
        closing, block = _BLOCKS[marker]
        cut(position, block)
        close = response.find(closing, position + len(marker), end) if closing else -1
        if close < 0:
            break
        resume = close + len(closing)
        cut(_after_space(response, resume, end) if block == "think" else resume, "text")
    cut(end, "text")


def _markers(response: str, start: int, end: int) -> list[tuple[int, str]]:
    """(position, keyword or opening marker) of every marker in response[start:end], in order."""
    found = [(match.start(1), match.group(1)) for marker in _MARKERS for match in marker.finditer(response, start, end)]
    if first := _FIRST_LINE.match(response, start, end):
        found.append((first.start(1), first.group(1)))
    found.sort()
    return found


def _end_of_opened_thinking(response: str, start: int, end: int) -> int:
    """Where the think block ends that the prompt opened; `start` where it opened none."""
    closings = [match for pattern in _END_OF_THINKING if (match := pattern.search(response, start, end))]
    if not closings:
        return start
    first = min(closings, key=re.Match.start)
    opened_here = response.find(_OPENING_OF[first.group()], start, first.start()) >= 0
    return start if opened_here else _after_space(response, first.end(), end)


def _after_space(response: str, position: int, end: int) -> int:
    match = _NOT_SPACE.search(response, position, end)
    return match.start() if match else end
