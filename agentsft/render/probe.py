"""What a template can do, found by rendering small conversations with marked texts and looking for the marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentsft.errors import RowError, UserError
from agentsft.render.template import Template, message_dict
from agentsft.types import Message, ToolCall

_USER, _ANSWER, _NEXT, _THINK = "Quertz0", "Answertz1", "Nextz2", "Thinkz3"
_TOOL, _KEY, _VALUE, _RESULT = "toolz4", "keyz5", "Valuez6", "Resultz7"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "A tool.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "A text."}},
                "required": [_KEY],
            },
        },
    }
]


@dataclass(frozen=True, slots=True)
class Traits:
    """A template's abilities and its control tokens, all found by rendering.

    `stop_tokens` end a sampled message; `closers` end a message in the history (stop tokens included); `delimiters`
    are the tokens no text may forge: those around messages, calls and results, bos and eos. `handover` holds the
    tokens that open the next message where the template writes no stop token at all (as GLM's does), keyed by the
    next role.
    """

    arguments: str
    renders_tools: bool
    renders_tool_calls: bool
    renders_tool_results: bool
    renders_reasoning: bool
    stop_tokens: tuple[str, ...]
    closers: tuple[str, ...]
    delimiters: tuple[str, ...]
    handover: dict[str, str]


def added_tokens(tokenizer: Any) -> dict[str, bool]:
    """Every added token's text, and whether the tokenizer calls it special."""
    return {token.content: token.special for token in tokenizer.added_tokens_decoder.values() if token.content}


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of `tokens`, the longest first; it matches nothing where there are none."""
    ordered = sorted(set(tokens), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")


def probe(template: Template, tokenizer: Any, stop_tokens: Sequence[str] = ()) -> Traits:
    """Find what `template` does. `stop_tokens` are those already known, such as the generation config's."""
    return _Probe(template, tokenizer, stop_tokens).traits()


class _Probe:
    def __init__(self, template: Template, tokenizer: Any, stop_tokens: Sequence[str]) -> None:
        self.template = template
        self.added = added_tokens(tokenizer)
        self.bos, self.eos = tokenizer.bos_token, tokenizer.eos_token
        self.declared = [t for t in (self.eos, *stop_tokens) if t]
        self.pattern = token_pattern(self.added)
        self.plain = [Message("user", _USER), Message("assistant", _ANSWER)]

    def traits(self) -> Traits:
        arguments, call_text = self._tool_call_form()
        result = Message("tool", _RESULT, tool_call_id="call00001", name=_TOOL)
        result_text = self._render([*self._called(), result], arguments)
        tools_text = self._render(self.plain[:1], arguments, tools=True)
        reasoned = self._render([self.plain[0], Message("assistant", _ANSWER, reasoning=_THINK)], arguments)

        final = self._tokens(self._after(self._render(self.plain, arguments), _ANSWER))
        after_user = self._after(self._render([*self.plain, Message("user", _NEXT)], arguments), _ANSWER)
        history = self._tokens(after_user.split(_NEXT)[0])
        stops = self._stops(final, history, self._tokens(self._after(call_text, _VALUE)))
        return Traits(
            arguments=arguments,
            renders_tools=_TOOL in tools_text and _KEY in tools_text,
            renders_tool_calls=bool(call_text),
            renders_tool_results=_RESULT in result_text or _RESULT in self._tool_message_alone(arguments),
            renders_reasoning=_THINK in reasoned,
            stop_tokens=tuple(stops),
            closers=tuple(dict.fromkeys([*stops, *self._closers(history)])),
            delimiters=tuple(self._delimiters(stops, arguments, tools_text + call_text + result_text)),
            handover=self._handover(final, history, call_text, result_text),
        )

    def _called(self) -> list[Message]:
        return [self.plain[0], Message("assistant", tool_calls=(ToolCall(_TOOL, {_KEY: _VALUE}, "call00001"),))]

    def _tool_call_form(self) -> tuple[str, str]:
        """Whether arguments go in as an object or as JSON text, and a rendered call (empty where there is none)."""
        for arguments in ("object", "text"):
            text = self._render(self._called(), arguments, tools=True) or self._render(self._called(), arguments)
            if _TOOL in self._after(text, _USER) and _VALUE in text and _KEY in text:
                return arguments, text
        return "object", ""

    def _tool_message_alone(self, arguments: str) -> str:
        """A tool message after a plain answer: templates that know roles, but no calls, render it too."""
        return self._render([*self.plain, Message("tool", _RESULT)], arguments)

    def _render(self, messages: Sequence[Message], arguments: str, tools: bool = False, prompt: bool = False) -> str:
        try:
            dicts = [message_dict(message, arguments) for message in messages]
            return self.template.render(dicts, _TOOLS if tools else None, prompt)
        except RowError as error:
            if error.reason == "template_limit":
                raise UserError(f"{error.detail.partition(';')[0]} on a small conversation: give another.") from None
            return ""

    @staticmethod
    def _after(text: str, mark: str) -> str:
        return text.rpartition(mark)[2] if mark in text else ""

    def _tokens(self, text: str) -> list[str]:
        return self.pattern.findall(text)

    def _stops(self, final: list[str], history: list[str], call: list[str]) -> list[str]:
        """The tokens at which sampling stops.

        After an answer that is the last token which the final and the historical rendering share, unless a declared
        stop token stands there already: Phi writes `<|end|>` in both and adds eos to the final one only; gpt-oss
        writes `<|return|>` at the end and `<|end|>` in the history.
        """
        stops = [token for token in self.declared if token in self.added]
        common = [a for a, b in zip(final, history, strict=False) if a == b]
        if common and not set(common) & set(stops):
            stops.append(common[-1])
        elif final and not set(final) & set(stops):
            stops.append(final[-1])
        ends = [token for token in call if self.added[token]]  # tags such as </tool_call> are part of the call
        if ends and not set(ends) & set(stops):
            stops.append(ends[-1])
        return list(dict.fromkeys(stops))

    def _closers(self, history: list[str]) -> list[str]:
        """The token after an answer in the history, and the one after a user's text, where they end the message."""
        after_user = self._after(self._render(self.plain, "object").split(_ANSWER)[0], _USER)
        glue = self._tokens(after_user)
        return [tokens[0] for tokens in (history, glue) if len(tokens) > 1]

    def _delimiters(self, stops: list[str], arguments: str, with_tools: str) -> list[str]:
        """Tokens around the messages of a plain conversation, and special ones around calls and results.

        Think tags in a generation prompt are none: a response may well hold them.
        """
        text = self._render([Message("system", "z8"), *self.plain, Message("user", _NEXT)], arguments)
        text = text or self._render([*self.plain, Message("user", _NEXT)], arguments)
        around = [token for token in self._tokens(text) if "think" not in token.lower() and token.strip()]
        around += [token for token in self._tokens(with_tools) if self.added[token]]
        return [token for token in dict.fromkeys([*stops, *around, self.bos, self.eos]) if token]

    def _handover(self, final: list[str], history: list[str], call_text: str, result_text: str) -> dict[str, str]:
        if final or not history:
            return {}
        found = {"user": history[0]}
        between = self._tokens(self._after(result_text.split(_RESULT)[0], _VALUE)) if call_text else []
        call_end = self._tokens(self._after(call_text, _VALUE))
        opening = between[len(call_end) :]
        return {**found, "tool": opening[0]} if opening else found
