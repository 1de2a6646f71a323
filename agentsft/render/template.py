"""The model's own chat template, rendered exactly as `apply_chat_template` renders it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
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
        self._compiled = self._compile(self.text)
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
            compiled = compile_template(text)
            _quicken_attributes(compiled.environment)
            return compiled
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
        return Prefixes(self, messages, list(tools) if tools else None, turns)

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


def _quicken_attributes(environment: Any) -> None:
    """Let the sandbox decide once for each type and attribute, not at every access, which is most of a template's time.

    Its decision looks at nothing else, as long as it is Jinja's own. A dict's keys, a loop's counters and a text's
    methods are found as the sandbox would find them, with less ado.
    """
    from types import BuiltinMethodType

    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

    if type(environment).is_safe_attribute is not ImmutableSandboxedEnvironment.is_safe_attribute:
        return
    decide = ImmutableSandboxedEnvironment.is_safe_attribute.__get__(environment)
    known: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(obj: Any, attr: str, value: Any) -> bool:
        key = (type(obj), attr)
        if key not in known:
            known[key] = decide(obj, attr, value)
        return known[key]

    environment.is_safe_attribute = is_safe_attribute
    if type(environment).getattr is not SandboxedEnvironment.getattr:
        return
    look_up = SandboxedEnvironment.getattr.__get__(environment)
    call_safely = SandboxedEnvironment.call.__get__(environment)
    undefined = environment.undefined
    of_dict = frozenset(dir(dict))
    of_loop = frozenset({"first", "last", "index", "index0", "length"})
    namespace = environment.globals.get("namespace")
    plain = frozenset({str, int, bool, type(None)})
    of_text = frozenset({"startswith", "endswith", "split", "strip", "lstrip", "rstrip", "replace"})

    def get_attribute(obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict and attribute not in of_dict:
            try:
                return obj[attribute]
            except KeyError:
                return undefined(obj=obj, name=attribute)
        if (kind is LoopContext and attribute in of_loop) or (kind is str and attribute in of_text):
            return getattr(obj, attribute)
        if kind is namespace:
            value = obj._Namespace__attrs.get(attribute, obj)
            if type(value) in plain and is_safe_attribute(obj, attribute, value):
                return value
        return look_up(obj, attribute)

    def call(context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if type(function) is BuiltinMethodType and type(function.__self__) is str and function.__name__ in of_text:
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return function(*args, **kwargs)
        return call_safely(context, function, *args, **kwargs)

    environment.getattr = get_attribute
    if type(environment).call is SandboxedEnvironment.call:
        environment.call = call


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
