"""The model's own chat template, rendered exactly as `apply_chat_template` renders it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentsft.errors import RowError, UserError
from agentsft.render.reuse import Memory, ReusingTemplate, run
from agentsft.render.sandbox import LimitError, compile_template, limited
from agentsft.types import Conversation, Message

MOST_LIMITS_HIT = 10
"""So many renderings may take too long before the template, and no longer the row, is taken to be at fault."""

RENDERED = ("messages", "tools", "documents", "add_generation_prompt")
"""Variables that every rendering sets itself."""


class Template:
    """A chat template with a tokenizer's special tokens and the run's variables.

    Text goes through Transformers' sandboxed environment, compiled once, its time and memory bounded. Raises
    UserError when the tokenizer has no template, the template does not compile, or a variable has a name of its own.
    """

    def __init__(self, tokenizer: Any, text: str | None = None, kwargs: Mapping[str, Any] | None = None) -> None:
        self.text = text if text is not None else self._own_template(tokenizer)
        self.kwargs = dict(kwargs or {})
        self.special_tokens = dict(tokenizer.special_tokens_map)
        if taken := next((name for name in RENDERED if name in self.kwargs), None):
            raise UserError(f"template_kwargs: {taken!r} is what is rendered, not a variable of yours; leave it out.")
        self._limits_hit = 0
        self._json = RememberedJson()
        self._compiled = self._compile(self.text)
        self._json.remember(self._compiled.environment)
        self._reusing = self._rewritten()

    @staticmethod
    def _own_template(tokenizer: Any) -> str:
        text = tokenizer.chat_template
        if isinstance(text, dict):
            text = text.get("tool_use") or text.get("default")
        if not text:
            raise UserError(
                "the tokenizer has no chat template: give one with --chat-template FILE, "
                "or use the instruction-tuned model's folder."
            )
        return text

    @staticmethod
    def _compile(text: str) -> Any:
        try:
            return compile_template(text)
        except Exception as error:  # of Jinja, or of Python for what is too deep, too long or too large
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            words = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"the chat template does not compile{where}: {words}; mend it or give another.") from None

    def _rewritten(self) -> ReusingTemplate | None:
        if os.environ.get(PLAIN):
            return None
        try:
            made = limited(lambda: ReusingTemplate(self.text, self._compiled.environment))
        except Exception:  # what compiled as it is may be too deep or too large with more in it
            return None
        return made if made.compiled is not None else None

    def prefixes(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, turns: int
    ) -> Prefixes:
        """A conversation of which so many `turns` are to be rendered, from the first to the last."""
        own_tools = list(tools) if tools else None
        self._json.begin([own_tools, *(own_tools or ()), *_arguments(messages)])
        return Prefixes(self, messages, own_tools, turns)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of `messages`, equal to `tokenizer.apply_chat_template(..., tokenize=False)`.

        Raises RowError("template_error") with the template's own words, RowError("template_limit") when a rendering
        takes more time or memory than it may, and UserError when that happens again and again.
        """
        variables = self._variables(messages, list(tools) if tools else None, add_generation_prompt, kwargs)
        try:
            return limited(lambda: run(self._compiled, variables))
        except LimitError as error:
            raise self._beyond_limits(error) from None
        except Exception as error:  # a template can raise anything that Python can
            words = " ".join(str(error).split()) or type(error).__name__
            raise RowError(
                "template_error", f"the chat template raised: {words[:300]}; mend the row or use --agent-format."
            ) from None

    def _variables(
        self, messages: Any, tools: Any, add_generation_prompt: bool, kwargs: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return {
            **self.special_tokens,
            **self.kwargs,
            **(kwargs or {}),
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }

    def _beyond_limits(self, error: LimitError) -> RowError | UserError:
        self._limits_hit += 1
        if self._limits_hit > MOST_LIMITS_HIT:
            return UserError(f"the chat template {error}, again and again: mend it or give another.")
        return RowError("template_limit", f"the chat template {error}; mend the template, or this row if it is huge.")


class RememberedJson:
    """The JSON text of what a conversation's prefixes show again and again: its tools and its calls' arguments."""

    def __init__(self) -> None:
        self._lasting: dict[int, Any] = {}
        self._texts: dict[Any, str] = {}

    def begin(self, objects: Iterable[Any]) -> None:
        """From now on the texts of these objects are remembered, which must not change meanwhile, and of no others."""
        self._lasting = {id(one): one for one in objects}  # holds them, so that no other object gets their identity
        self._texts = {}

    def remember(self, environment: Any) -> None:
        """Let the templates of an environment ask here first."""
        to_json = environment.filters["tojson"]

        def remembered(value: Any, *args: Any, **kwargs: Any) -> str:
            if id(value) not in self._lasting:
                return to_json(value, *args, **kwargs)
            key = repr((id(value), args, kwargs)) if args or kwargs else id(value)
            if key not in self._texts:
                self._texts[key] = to_json(value, *args, **kwargs)
            return self._texts[key]

        environment.filters = {**environment.filters, "tojson": remembered}


def _arguments(messages: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    return (call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ()))


REUSE_FROM = 12
"""Conversations of fewer turns are rendered plainly: it is faster."""


_Made = tuple[int, bool, Mapping[str, Any] | None, str]
"""What was asked for, and the text."""

PLAIN = "AGENTSFT_PLAIN_RENDERING"
"""The environment variable that has every prefix rendered by itself."""


class Prefixes:
    """The prefixes of one conversation, rendered by a template that remembers what its messages become.

    The messages must not change meanwhile. `turns` is how many are to be rendered.
    """

    def __init__(
        self, template: Template, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None, turns: int
    ) -> None:
        self._template, self._messages, self._tools = template, messages, tools
        self._memory = Memory(messages, tools) if turns >= REUSE_FROM else None
        self._made: list[_Made] = []

    def render(self, count: int, add_generation_prompt: bool, kwargs: Mapping[str, Any] | None = None) -> str:
        """The text of the first `count` messages, equal to `Template.render`'s, with its errors."""
        template, messages = self._template, self._messages[:count]
        reusing, memory = template._reusing, self._memory
        if reusing is not None and memory is not None:
            variables = template._variables(messages, self._tools, add_generation_prompt, kwargs)
            try:
                text = limited(lambda: reusing.render(variables, memory))
            except Exception:  # the plain template says what is wrong, if anything
                text = template.render(messages, self._tools, add_generation_prompt, kwargs)
                template._reusing = None
                return text
            self._made.append((count, add_generation_prompt, kwargs, text))
            return text
        return template.render(messages, self._tools, add_generation_prompt, kwargs)

    def check(self) -> None:
        """Render two of the texts plainly: the last, and one of the others, another for every row.

        Raises UserError where one differs: then no text of this template is to be relied on, of earlier rows neither.
        """
        made = self._made
        for count, add_generation_prompt, kwargs, text in (*made[-1:], *_one_of(made[:-1])):
            if self._template.render(self._messages[:count], self._tools, add_generation_prompt, kwargs) != text:
                raise UserError(
                    "chat template: rendered message by message it gives other texts than rendered as a whole; "
                    f"set {PLAIN}=1, which is slower, and report this template."
                )


def _one_of(made: list[_Made]) -> list[_Made]:
    return [made[zlib.crc32(made[-1][3].encode("utf-8", "replace")) % len(made)]] if made else []


def read_template(path: str | Path) -> str:
    """The text of a template file. Raises UserError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the chat template ({error}).") from None


def message_dict(message: Message, arguments: str = "object") -> dict[str, Any]:
    """A message as templates take it. `arguments` is `object`, or `text` for templates that want JSON text.

    Reasoning goes under the two names that templates read, as Transformers passes it on.
    """
    import json

    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        out["thinking"] = message.reasoning
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        calls = []
        for call in message.tool_calls:
            value = call.arguments
            if arguments == "text" and not isinstance(value, str):
                value = json.dumps(value, ensure_ascii=False)
            made: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": value}}
            if call.id is not None:
                made["id"] = call.id
            calls.append(made)
        out["tool_calls"] = calls
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    return out


def message_dicts(conversation: Conversation, arguments: str = "object") -> list[dict[str, Any]]:
    """All messages of a conversation as templates take them."""
    return [message_dict(message, arguments) for message in conversation.messages]
