"""Random conversations, and writers that put one into each form that is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from agentsft.types import Conversation, Message, ToolCall

TRICKY = (
    "",
    " \n",
    "Thought: x\nAction: f\nAction Input: {}",
    "Observation: done",
    "<tool_call>\n{}\n</tool_call>",
    "</tool_response>",
    "✿FUNCTION✿: f",
    "{content} {name}",
    "null",
    '{"a": 1}',
    "你好 \u2028 \u0085 😀",
    "<|im_end|>",
)
texts = st.text(max_size=20) | st.sampled_from(TRICKY)
names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
arguments = st.dictionaries(texts, json_values, max_size=3)
calls = st.builds(ToolCall, names, arguments)
schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(names, st.just({"type": "string"}))}
)
tools = st.lists(names, max_size=3, unique=True).flatmap(
    lambda found: st.tuples(*(st.builds(_tool, st.just(name), texts, schemas) for name in found))
)
switches = st.fixed_dictionaries({}, optional={"train": st.booleans(), "weight": st.sampled_from([0.0, 0.5, 1.0, 2.5])})


def _tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


@st.composite
def conversations(draw: st.DrawFn, with_ids: bool = False) -> Conversation:
    """System text or none, rounds of user, tool loop (parallel calls too) and reply; may end anywhere after a call."""
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(texts)))
        for _ in range(draw(st.integers(0, 2))):
            turn = tuple(draw(st.lists(calls, min_size=1, max_size=3)))
            if with_ids:
                turn = tuple(ToolCall(call.name, call.arguments, f"call_{i}") for i, call in enumerate(turn))
            messages.append(Message("assistant", draw(texts), draw(reasonings), turn, **draw(switches)))
            results = [Message("tool", draw(texts), tool_call_id=call.id) for call in turn]
            messages += draw(st.permutations(results)) if with_ids else results
        messages.append(Message("assistant", draw(texts), draw(reasonings), **draw(switches)))
    end = draw(st.integers(0, 2))
    cut = messages[: len(messages) - end]
    messages = cut if any(message.role == "assistant" for message in cut) else messages
    return Conversation(
        tuple(messages), draw(tools), draw(st.just({}) | st.just({"enable_thinking": False})), draw(ids)
    )


reasonings = st.none() | st.text(min_size=1, max_size=10)
ids = st.none() | st.text(min_size=1, max_size=5)


def _shared(conversation: Conversation, as_text: bool) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if conversation.id is not None:
        record["id"] = conversation.id
    kwargs: Any = conversation.template_kwargs
    record["chat_template_kwargs"] = json.dumps(kwargs) if as_text else kwargs
    record["tools"] = json.dumps(list(conversation.tools)) if as_text else list(conversation.tools)
    return record


def _flags(message: Message) -> dict[str, Any]:
    flags = {"train": message.train, "weight": message.weight, "reasoning_content": message.reasoning}
    return {name: value for name, value in flags.items() if value is not None}


def as_openai(conversation: Conversation, as_text: bool) -> dict[str, Any]:
    """OpenAI messages; arguments, tools and template variables as JSON text or as objects."""
    messages = []
    for message in conversation.messages:
        raw: dict[str, Any] = {"role": message.role, "content": message.content, **_flags(message)}
        if message.tool_calls:
            raw["content"] = message.content or None
            raw["tool_calls"] = [_openai_call(call, as_text) for call in message.tool_calls]
        if message.tool_call_id is not None:
            raw["tool_call_id"] = message.tool_call_id
        messages.append(raw)
    return {**_shared(conversation, as_text), "messages": messages}


def _openai_call(call: ToolCall, as_text: bool) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments) if as_text else call.arguments}
    return {"type": "function", "function": function, **({"id": call.id} if call.id is not None else {})}


def as_sharegpt(conversation: Conversation, as_text: bool) -> dict[str, Any]:
    """from/value, the calls of a turn as one function_call that holds a list, system text beside the messages."""
    return _as_call_roles(
        conversation, as_text, "from", "value", ("human", "gpt", "function_call", "observation"), True
    )


def as_swift(conversation: Conversation, as_text: bool) -> dict[str, Any]:
    """role/content with one tool_call message per call, and tool_response."""
    roles = ("user", "assistant", "tool_call", "tool_response")
    return _as_call_roles(conversation, as_text, "role", "content", roles, False)


def _as_call_roles(
    conversation: Conversation, as_text: bool, role: str, content: str, roles: tuple[str, ...], together: bool
) -> dict[str, Any]:
    record = _shared(conversation, as_text)
    user, assistant, call_role, tool = roles
    plain = {"system": "system", "user": user, "assistant": assistant, "tool": tool}
    raws: list[dict[str, Any]] = []
    for message in conversation.messages:
        if together and message.role == "system" and message.content:
            record["system"] = message.content
            continue
        flags = _flags(message)
        reasoning = {"reasoning_content": flags.pop("reasoning_content")} if message.reasoning else {}
        if not message.tool_calls or message.content:
            raws.append({role: plain[message.role], content: message.content, **flags, **reasoning})
            reasoning = {}
        values = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
        for value in [values] if together and values else values:
            raws.append({role: call_role, content: json.dumps(value, ensure_ascii=False), **flags, **reasoning})
            reasoning = {}
    return {**record, "conversations" if together else "messages": raws}


FORMS = (as_openai, as_sharegpt, as_swift)


def write_jsonl(path: Path, records: list[Any], ascii_only: bool = False, newline: str = "\n", bom: str = "") -> str:
    lines = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    path.write_bytes((bom + newline.join(lines) + newline).encode())
    return str(path)
