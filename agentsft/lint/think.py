"""Think tags that do not pair up."""

from __future__ import annotations

import re

from agentsft.lint.finding import Finding, excerpt
from agentsft.types import Message

_NAMES = "think|thinking|seed:think|mm:think"
_TAG = re.compile(rf"(?<!`)(?:<(/?)(?:{_NAMES})>|\[(/?)THINK\])")


def think_finding(message: Message, index: int) -> Finding | None:
    """The first fault in an assistant message's tags.

    A text may begin inside a block (the prompt opened it). Two blocks with nothing but space between them are one
    block doubled. Tags in backticks are mentioned, not used.
    """
    if "think" not in message.content and "THINK" not in message.content and not message.reasoning:
        return None
    if message.reasoning and (tag := _TAG.search(message.reasoning)):
        detail = f"{tag.group()} inside the reasoning, around which the template sets its own tags"
        return Finding("think_tags", index, detail, excerpt(message.reasoning, tag.start()))
    opened = False
    last_end: int | None = None
    for number, tag in enumerate(_TAG.finditer(message.content)):
        closes = "/" in tag.group()
        fault = ""
        if message.reasoning:
            fault = f"{tag.group()} in the content of a message that has reasoning as well"
        elif closes and not opened and number:
            fault = f"{tag.group()} closes a block that is not open"
        elif not closes and opened:
            fault = f"{tag.group()} opens a block that is open already"
        elif not closes and last_end is not None and not message.content[last_end : tag.start()].strip():
            fault = "two think blocks, one right behind the other"
        if fault:
            return Finding("think_tags", index, fault, excerpt(message.content, tag.start()))
        opened, last_end = not closes, tag.end() if closes else last_end
    if opened:
        return Finding("think_tags", index, "a think block is never closed", excerpt(message.content))
    return None
