"""Conversation -> turns: each trained message with the very prompt that a server would render before sampling it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from agentsft.errors import RowError
from agentsft.render.probe import Traits, token_pattern
from agentsft.render.sandbox import one_ceiling
from agentsft.render.template import Prefixes, Template, message_dicts
from agentsft.types import Conversation, Message


@dataclass(frozen=True, slots=True)
class RenderedTurn:
    """One message as it is served: `prompt` + `response` + `suffix`, where sampling starts after the prompt."""

    message: int
    prompt: str
    response: str
    suffix: str


_THINK_TAGS = re.compile(r"<think>|</think>")


class Renderer:
    """Renders conversations through one template and proves what it renders. It knows nothing of weights."""

    def __init__(self, template: Template, traits: Traits, allow_control_tokens: bool = False) -> None:
        self.template = template
        self.traits = traits
        self.allow_control_tokens = allow_control_tokens
        self._delimiters = token_pattern(traits.delimiters)
        stops = token_pattern(traits.stop_tokens).pattern
        self._stop = re.compile(stops)
        # Begins with a stop token, and not with a repeat: `re` looks for such a beginning many times faster.
        self._tail = re.compile(rf"(?:{stops})\s*(?:(?:{stops})\s*)*\Z")

    def turns(self, conversation: Conversation, messages: Sequence[int]) -> list[RenderedTurn]:
        """The turns of the assistant messages with these indices, in order.

        A greeting that no server can be asked for is left out: a first message, or one before any user's where the
        template refuses to prompt for it. Raises RowError, with the message at fault, for whatever cannot be proven.
        """
        self._check_needs(conversation)
        self._check_control_tokens(conversation)
        dicts = message_dicts(conversation, self.traits.arguments)
        prefixes = self.template.prefixes(dicts, conversation.tools, len(messages))
        with one_ceiling():
            chosen = [i for i in messages if not self._is_unprompted(conversation, prefixes, i)]
            try:
                return [self._turn(conversation, dicts, prefixes, i) for i in chosen]
            finally:
                prefixes.check()  # also before a refusal counts

    def _is_unprompted(self, conversation: Conversation, prefixes: Prefixes, i: int) -> bool:
        if i == 0:
            return True
        if any(message.role in ("user", "tool") for message in conversation.messages[:i]):
            return False
        try:
            prefixes.render(i, True, conversation.template_kwargs)
        except RowError:
            return True
        return False

    def _turn(
        self, conversation: Conversation, dicts: list[dict[str, Any]], prefixes: Prefixes, i: int
    ) -> RenderedTurn:
        message, tools, kwargs = conversation.messages[i], conversation.tools, conversation.template_kwargs
        try:
            prompt = prefixes.render(i, True, kwargs)
            full = prefixes.render(i + 1, False, kwargs)
            if not full.startswith(prompt) and not message.reasoning:
                prompt, full = self._without_thinking(prefixes, i, kwargs) or (prompt, full)
            if not full.startswith(prompt):
                full = self._behind_rewritten_history(dicts, i, tools, kwargs, prompt, full) or full
        except RowError as error:
            raise RowError(error.reason, error.detail, i) from None
        if not full.startswith(prompt):
            raise RowError("prompt_not_prefix", self._prefix_detail(prompt, full, message), i)
        response, suffix = self._cut(full[len(prompt) :], message, i)
        self._check_content(message, response, i)
        return RenderedTurn(i, prompt, response, suffix)

    @staticmethod
    def _without_thinking(prefixes: Prefixes, i: int, kwargs: Mapping[str, Any]) -> tuple[str, str] | None:
        """Prompt and full text in the template's non-thinking mode, where that one fits: serving would use it."""
        quiet = {**kwargs, "enable_thinking": False}
        prompt = prefixes.render(i, True, quiet)
        full = prefixes.render(i + 1, False, quiet)
        return (prompt, full) if full.startswith(prompt) else None

    def _behind_rewritten_history(
        self,
        dicts: list[dict[str, Any]],
        i: int,
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any],
        prompt: str,
        full: str,
    ) -> str | None:
        """The prompt and the message's text behind it, where the message itself makes the template drop old thinking.

        gpt-oss shows the thinking of a tool loop until the final answer stands. Behind the same history without
        thinking nothing is dropped, so the message's text is found there; the full text must end with it as well.
        """
        plain = [{k: v for k, v in m.items() if k not in ("thinking", "reasoning_content")} for m in dicts[:i]]
        before = self.template.render(plain, tools, True, kwargs)
        after = self.template.render([*plain, dicts[i]], tools, False, kwargs)
        text = after[len(before) :]
        return prompt + text if after.startswith(before) and text and full.endswith(text) else None

    @staticmethod
    def _prefix_detail(prompt: str, full: str, message: Message) -> str:
        at = next(
            (k for k, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full))
        )
        remedy = "the template renders the message otherwise than it prompts for it: use another --chat-template"
        if "think" in prompt[at:] and message.reasoning:
            remedy = (
                """if the template has a thinking mode, ask for it: --template-kwargs '{"enable_thinking": true}'"""
            )
        elif "think" in prompt[at:]:
            remedy = "this message has no reasoning, and the template has no prompt without: add reasoning to the row"
        return f"the prompt ends {_show(prompt[at:])} where the message reads {_show(full[at:])}; {remedy}."

    def _cut(self, text: str, message: Message, i: int) -> tuple[str, str]:
        """Response and stop token: the text up to the first stop token of its tail, and that token."""
        tail = self._tail.search(text)
        if tail is None:
            return self._cut_at_handover(text, message, i)
        stop = self._stop.match(text, tail.start())
        assert stop is not None
        response = text[: tail.start()]
        if not self.allow_control_tokens and (early := self._stop.search(response)):
            raise RowError(
                "control_token", f"{early.group()!r} stands inside the response, where sampling would stop.", i
            )
        return response, stop.group()

    def _cut_at_handover(self, text: str, message: Message, i: int) -> tuple[str, str]:
        """For templates that end a message by opening the next one: that opening token is where sampling stops."""
        token = self.traits.handover.get("tool" if message.tool_calls else "user")
        if token in self.traits.stop_tokens and token is not None:
            return text, token
        opens = f"; if {token!r} is where serving stops, say --stop-token {token!r}" if token else ""
        raise RowError(
            "no_stop_token", f"the template ends the message {_show(text[-40:])} without a stop token{opens}.", i
        )

    def _check_needs(self, conversation: Conversation) -> None:
        """Refuse what the template would drop without a word: tools, calls and results."""
        remedy = "fold them into text with --agent-format react|hermes|qwen, or use a --chat-template that has them."
        if conversation.tools and not self.traits.renders_tools:
            raise RowError("tools_unsupported", f"the template shows no tools to the model; {remedy}")
        for i, message in enumerate(conversation.messages):
            if message.tool_calls and not self.traits.renders_tool_calls:
                raise RowError("tools_unsupported", f"the template renders no tool calls; {remedy}", i)
            if message.role == "tool" and not self.traits.renders_tool_results:
                raise RowError("tools_unsupported", f"the template renders no tool results; {remedy}", i)

    def _check_control_tokens(self, conversation: Conversation) -> None:
        if self.allow_control_tokens:
            return
        messages = [list(_texts(message)) for message in conversation.messages]
        kwargs, tools = _leaves(conversation.template_kwargs), _leaves(conversation.tools)
        if not self._delimiters.search("".join(chain(*messages, kwargs, tools))):
            return  # what no text holds even behind another, none holds alone
        for i, texts in enumerate(messages):
            if found := self._found_in(texts):
                raise RowError(
                    "control_token",
                    f"the text holds {found!r}, which would be read as a control token: "
                    "mend the row, or accept it with --control-tokens allow.",
                    i,
                )
        if found := self._found_in(kwargs):
            raise RowError(
                "control_token", f"chat_template_kwargs hold {found!r}; mend them or --control-tokens allow."
            )
        if found := self._found_in(tools):
            raise RowError("control_token", f"the tools hold {found!r}; mend them or --control-tokens allow.")

    def _found_in(self, texts: Iterable[str]) -> str | None:
        """The first delimiter in any of the texts."""
        return next((found.group() for text in texts if (found := self._delimiters.search(text))), None)

    def _check_content(self, message: Message, response: str, i: int) -> None:
        """Every text that the message brings must stand in its response, whole and in order of its kind."""
        if message.reasoning and message.reasoning.strip() not in response:
            raise RowError(
                "reasoning_dropped",
                "the template leaves this message's reasoning out; --reasoning inline writes it into the content.",
                i,
            )
        content = message.content.strip()
        if content and content not in response:
            self._check_pieces(content, response, i)
        for call in message.tool_calls:
            missing = next((text for text in (call.name, *_leaves(call.arguments)) if not _holds(response, text)), None)
            if missing is not None:
                raise RowError("content_altered", f"the template does not render {_show(missing)} of a tool call.", i)

    @staticmethod
    def _check_pieces(content: str, response: str, i: int) -> None:
        """Templates may set think tags anew, so the text inside and outside of them is looked for piece by piece."""
        at = 0
        pieces = _THINK_TAGS.split(content)
        for number, piece in enumerate(map(str.strip, pieces)):
            found = response.find(piece, at)
            if found < 0:
                inside = len(pieces) > 1 and number < len(pieces) - 1
                raise RowError(
                    "reasoning_dropped" if inside else "content_altered",
                    f"the template does not render {_show(piece)} as the row has it; use another --chat-template.",
                    i,
                )
            at = found + len(piece)


def _texts(message: Message) -> Iterator[str]:
    yield message.content
    for text in (message.reasoning, message.name, message.tool_call_id):
        if text:
            yield text
    for call in message.tool_calls:
        yield call.name
        if call.id:
            yield call.id
        yield from _leaves(call.arguments)


def _leaves(value: Any) -> list[str]:
    """All texts in a JSON value, keys included."""
    found: list[str] = []
    _gather(value, found)
    return found


def _gather(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, (dict, Mapping)):  # `dict` by itself is found faster
        for key, item in value.items():
            found.append(str(key))
            _gather(item, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _gather(item, found)


def _holds(response: str, text: str) -> bool:
    """Whether the text stands in the response as it is, without outer space, or as JSON writes it."""
    return text.strip() in response or json.dumps(text, ensure_ascii=False)[1:-1] in response


def _show(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
