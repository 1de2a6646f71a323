"""A path's text cut into segments for people: whose text is what, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentsft.errors import RowError
from agentsft.render.probe import token_pattern
from agentsft.render.template import message_dicts
from agentsft.render.turns import Renderer
from agentsft.types import Conversation, Message, Segment, Turn


@dataclass(frozen=True, slots=True)
class _Mark:
    """From character `at` on, the text is of this kind and message."""

    at: int
    kind: str
    message: int


def path_segments(
    renderer: Renderer, conversation: Conversation, turns: Sequence[Turn], leaf: Turn
) -> tuple[Segment, ...]:
    """The segments of the path that ends with the turn `leaf`; they join to its prompt, response and suffix.

    Response and suffix are exact where they are sampled. In the history, messages are found by their own text and by
    the tokens that close them, since a template may have rewritten them. Text that the template puts before the
    first message (a default system prompt) has message -1.
    """
    finder = _Finder(renderer, conversation, {turn.message: turn for turn in turns}, leaf)
    marks = finder.marks()
    start = len(leaf.prompt)
    text = leaf.prompt + leaf.response + leaf.suffix
    marks += [_Mark(start, "response", leaf.message), _Mark(start + len(leaf.response), "suffix", leaf.message)]
    ends = [mark.at for mark in marks[1:]] + [len(text)]
    cut = [Segment(mark.kind, text[mark.at : end], mark.message) for mark, end in zip(marks, ends, strict=True)]
    return tuple(segment for segment in cut if segment.text)


class _Finder:
    def __init__(self, renderer: Renderer, conversation: Conversation, turns: dict[int, Turn], leaf: Turn) -> None:
        self.text = leaf.prompt
        self.messages = conversation.messages[: leaf.message]
        self.turns = turns
        # Where the text stands as it was sampled: begin of the response of these messages.
        self.sampled = {k: len(t.prompt) for k, t in turns.items() if self._stands(t)}
        self.closer = token_pattern(renderer.traits.closers)
        self.opener = token_pattern(renderer.traits.delimiters)
        self.header = self._header(renderer, conversation, leaf)

    def _stands(self, turn: Turn) -> bool:
        whole = turn.prompt + turn.response + turn.suffix
        return turn.message < len(self.messages) and self.text.startswith(whole)

    def marks(self) -> list[_Mark]:
        """Where each message of the prompt begins, in order and without gaps; the first mark is at 0."""
        marks: list[_Mark] = []
        at = 0
        for k, message in enumerate(self.messages):
            if message.role == "assistant":
                begin, end, close = self._answer(k, at)
                if begin > at and (not marks or marks[-1].at == at):
                    marks.append(_Mark(at, "query", max(k - 1, 0)))
                marks += [_Mark(begin, "response", k), _Mark(end, "suffix", k)]
                at = close
                continue
            found = self.text.find(message.content.strip(), at)
            if found < 0:
                continue  # the template left this message out
            if not marks and message.role not in ("system", "developer"):
                at = self._lead(found, marks)
            marks.append(_Mark(at, "system" if message.role in ("system", "developer") else "query", k))
            at = self._close(k, found + len(message.content.strip()))
        if at < len(self.text) and (not marks or marks[-1].kind == "suffix" or marks[-1].kind == "system"):
            marks.append(_Mark(at, "query", len(self.messages) - 1))
        return marks if marks and marks[0].at == 0 else [_Mark(0, "query", 0), *marks]

    @staticmethod
    def _header(renderer: Renderer, conversation: Conversation, leaf: Turn) -> str:
        """What opens an assistant message in the history: the generation prompt without its think tag."""
        dicts = message_dicts(conversation, renderer.traits.arguments)[: leaf.message]
        try:
            plain = renderer.template.render(dicts, conversation.tools, False, conversation.template_kwargs)
        except RowError:
            return ""
        return leaf.prompt[len(plain) :].split("<think>")[0] if leaf.prompt.startswith(plain) else ""

    def _lead(self, first: int, marks: list[_Mark]) -> int:
        """Mark what the template writes before the first message, a system prompt of its own; where that ends."""
        closed = [match.end() for match in self.closer.finditer(self.text, 0, first)]
        if not closed:
            return 0
        marks.append(_Mark(0, "system", -1))
        return closed[-1]

    def _answer(self, k: int, at: int) -> tuple[int, int, int]:
        """Begin and end of an assistant message's response, and the end of the token that closes it."""
        if self.sampled.get(k, -1) >= at:
            begin, turn = self.sampled[k], self.turns[k]
            end = begin + len(turn.response)
            return begin, end, end + len(turn.suffix)
        header = self.text.find(self.header, at) if self.header else -1
        begin = header + len(self.header) if header >= 0 else self._own_text(self.messages[k], at)
        closing = self.closer.search(self.text, begin) or self.opener.search(self.text, begin)
        if closing is None:
            return begin, len(self.text), len(self.text)
        is_closer = self.closer.fullmatch(closing.group()) is not None
        return begin, closing.start(), closing.end() if is_closer else closing.start()

    def _own_text(self, message: Message, at: int) -> int:
        own = message.content.strip() or (message.tool_calls[0].name if message.tool_calls else "")
        return max(self.text.find(own, at), at)

    def _close(self, k: int, end: int) -> int:
        """Where message k ends whose text ends at `end`: behind its closing token, if it comes before the next text."""
        following = next((m.content.strip() for m in self.messages[k + 1 :] if m.content.strip()), "")
        found = self.text.find(following, end) if following else -1
        limits = [begin for begin in self.sampled.values() if begin >= end]
        limit = min([*limits, found if found >= 0 else len(self.text)])
        closing = self.closer.search(self.text, end, limit)
        return closing.end() if closing else end
