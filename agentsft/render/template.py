"""The model's own chat template, rendered exactly as `apply_chat_template` renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentsft.errors import RowError, UserError
from agentsft.types import Conversation, Message


class Template:
    """A chat template with a tokenizer's special tokens and the run's variables.

    Text goes through Transformers' sandboxed environment, compiled once. Raises UserError when the tokenizer has no
    template or the template does not compile.
    """

    def __init__(self, tokenizer: Any, text: str | None = None, kwargs: Mapping[str, Any] | None = None) -> None:
        self.text = text if text is not None else self._own_template(tokenizer)
        self.kwargs = dict(kwargs or {})
        self.special_tokens = dict(tokenizer.special_tokens_map)
        self._compiled = self._compile(self.text)

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
        import jinja2
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            compiled = _compile_jinja_template(text)
            _remember_safe_attributes(compiled.environment)
            return compiled
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            raise UserError(f"the chat template does not compile{where}: {error}; mend it or give another.") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of `messages`, equal to `tokenizer.apply_chat_template(..., tokenize=False)`.

        Raises RowError("template_error") with the template's own words.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{**self.special_tokens, **self.kwargs, **(kwargs or {})},
            )
        except Exception as error:  # a template can raise anything that Python can
            words = " ".join(str(error).split()) or type(error).__name__
            raise RowError(
                "template_error", f"the chat template raised: {words[:300]}; mend the row or use --agent-format."
            ) from None


def _remember_safe_attributes(environment: Any) -> None:
    """Let the sandbox decide once for each type and attribute, not at every access: half of a template's time.

    Its decision looks at nothing else, as long as it is Jinja's own.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

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


def read_template(path: str | Path) -> str:
    """The text of a template file. Raises UserError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
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
