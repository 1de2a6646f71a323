"""Agent formats: tools, calls and results as plain text, for templates and models that know no tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from agentsft.data.fields import malformed
from agentsft.errors import UserError, nearest
from agentsft.types import Conversation, Message, ToolCall


@dataclass(frozen=True, slots=True)
class Words:
    """What a format writes. Names in braces stand for values; several calls or results join with a line break.

    `system`: {tools} (one `tool` a line) and {names} · `tool`: {tool} (JSON in OpenAI's form) or {function} (JSON of
    its function alone) · `text`: the {content} before a call · `call`: {name} and {arguments} (JSON), or {call} (JSON
    of both) · `result`, `reply`, `reply_after_result`: {content} · `openers`: a text that begins with one of them is
    in this format already · `stop`: strings at which a server stops.
    """

    system: str
    tool: str
    text: str
    call: str
    result: str
    reply: str
    reply_after_result: str
    openers: tuple[str, ...]
    stop: tuple[str, ...]


_WORDS = {
    "react": Words(
        system="""You can use these tools, each described by one line of JSON:

{tools}

Work in steps. Write every step like this:

Thought: what you know and what is to be done next
Action: the name of one tool, out of [{names}]
Action Input: the arguments of the tool, as one JSON object
Observation: the result of the tool, which you are given

Take as many steps as the task needs. When no tool is needed any more, reply like this:

Final Answer: your reply""",
        tool="{function}",
        text="Thought: {content}",
        call="Action: {name}\nAction Input: {arguments}",
        result="Observation: {content}",
        reply="Final Answer: {content}",
        reply_after_result="Final Answer: {content}",
        openers=("Thought:", "Action:", "Final Answer:"),
        stop=("Observation:",),
    ),
    "hermes": Words(
        system="""You can call functions. Each line between the tags describes one of them as JSON:

<tools>
{tools}
</tools>

To call a function, write its name and its arguments as JSON between tags of their own, once for every call:

<tool_call>
{"name": "the function's name", "arguments": {"an argument": "its value"}}
</tool_call>

Results come back between <tool_response> and </tool_response>.""",
        tool="{tool}",
        text="{content}",
        call="<tool_call>\n{call}\n</tool_call>",
        result="<tool_response>\n{content}\n</tool_response>",
        reply="{content}",
        reply_after_result="{content}",
        openers=("<tool_call>",),
        stop=("<tool_response>",),
    ),
    "qwen": Words(
        system="""You have tools, each described by one line of JSON:

{tools}

To use tools, write these two lines for each call:

✿FUNCTION✿: the name of the tool, out of [{names}]
✿ARGS✿: the arguments of the tool, as one JSON object

You are then given, for each call:

✿RESULT✿: the result of the tool

and reply with:

✿RETURN✿: your reply, based on the results""",
        tool="{function}",
        text="{content}",
        call="✿FUNCTION✿: {name}\n✿ARGS✿: {arguments}",
        result="✿RESULT✿: {content}",
        reply="{content}",
        reply_after_result="✿RETURN✿: {content}",
        openers=("✿FUNCTION✿:", "✿RETURN✿:"),
        stop=("✿RESULT✿:",),
    ),
}
AGENT_FORMATS = tuple(_WORDS)
_SLOT = re.compile(r"\{(tools|names|tool|function|content|call|name|arguments)\}")


def describe(agent_format: str) -> str:
    """The format as a JSON document, saved beside a model so that a server can write and parse the same text."""
    words = asdict(_words(agent_format))
    notes = (
        "Names in braces stand for values: {tools} is one `tool` a line, {names} the tools' names with commas, {tool} "
        "a tool's JSON in OpenAI's form, {function} the JSON of its function alone, {call} the JSON of name and "
        "arguments. `system` follows the system message's own text after an empty line. A turn is its text, if any, "
        "with its calls on the lines below it; the results of a turn, in the order of its calls, are one user message."
    )
    return json.dumps({"agent_format": agent_format, **words, "notes": notes}, ensure_ascii=False, indent=2) + "\n"


def fold(conversation: Conversation, agent_format: str) -> Conversation:
    """The conversation as plain text in the words of `agent_format`; one without tools and calls as it is.

    The tool list joins the system message, calls join the assistant's text, a turn's results become one user message,
    in the order of the calls. Arguments are JSON; those that are text become a JSON string. Train switches and weights
    stay. In react, reasoning becomes the Thought where the message has no text of its own.

    Raises RowError malformed where the result could not be parsed back: a text that already holds a call in this
    format beside real calls, a tool's name with a line break, arguments that JSON cannot express. Raises UserError
    where `agent_format` is none of `AGENT_FORMATS`.
    """
    messages = conversation.messages
    if not conversation.tools and not any(message.tool_calls or message.role == "tool" for message in messages):
        return conversation
    words = _words(agent_format)
    folded = list(_fold_messages(messages, words))
    if conversation.tools:
        folded = _with_tools(folded, conversation.tools, words)
    return replace(conversation, messages=tuple(folded), tools=())


def _words(agent_format: str) -> Words:
    if agent_format not in _WORDS:
        known = ", ".join(AGENT_FORMATS)
        raise UserError(f"agent_format is one of {known}; not {agent_format!r}.{nearest(agent_format, AGENT_FORMATS)}")
    return _WORDS[agent_format]


def _fold_messages(messages: Sequence[Message], words: Words) -> Iterator[Message]:
    index = 0
    while index < len(messages):
        message = messages[index]
        if message.role == "tool":
            end = next((i for i in range(index, len(messages)) if messages[i].role != "tool"), len(messages))
            results = _in_call_order(messages[index - 1] if index else None, messages[index:end])
            yield Message("user", "\n".join(_fill(words.result, content=result.content) for result in results))
            index = end
            continue
        if message.role == "assistant":
            after_result = index > 0 and messages[index - 1].role == "tool"
            message = _fold_assistant(message, words, after_result, index)
        yield message
        index += 1


def _fold_assistant(message: Message, words: Words, after_result: bool, index: int) -> Message:
    content, reasoning = message.content, message.reasoning
    form = words.text if message.tool_calls else words.reply_after_result if after_result else words.reply
    if not content and reasoning is not None and words.text != "{content}":
        content, reasoning, form = reasoning, None, words.text
    if message.tool_calls and _holds_a_call(content, words):
        raise malformed("The text holds a call in this agent format beside the real calls; remove it.", index)
    if content and not content.startswith(words.openers):
        content = _fill(form, content=content)
    calls = [_call(call, words, index) for call in message.tool_calls]
    content = "\n".join([content, *calls] if content else calls)
    return replace(message, content=content, reasoning=reasoning, tool_calls=())


def _holds_a_call(text: str, words: Words) -> bool:
    start = words.call.partition("{")[0].rstrip()
    return any(line.startswith(start) for line in text.splitlines())


def _call(call: ToolCall, words: Words, index: int) -> str:
    if "\n" in call.name:
        raise malformed("A tool's name holds a line break.", index)
    try:
        arguments = _json(call.arguments)
    except (TypeError, ValueError) as error:
        raise malformed(f"The arguments of {call.name} cannot be written as JSON: {error}.", index) from None
    both = f'{{"name": {_json(call.name)}, "arguments": {arguments}}}'
    return _fill(words.call, name=call.name, arguments=arguments, call=both)


def _in_call_order(caller: Message | None, results: Sequence[Message]) -> Sequence[Message]:
    """A turn's results in the order of its calls, where their ids tell; else as they stand."""
    order = {call.id: number for number, call in enumerate(caller.tool_calls)} if caller else {}
    ids = [result.tool_call_id for result in results]
    if None in ids or len(set(ids)) < len(ids) or not set(ids) <= set(order):
        return results
    return sorted(results, key=lambda result: order[result.tool_call_id])


def _with_tools(messages: list[Message], tools: tuple[dict[str, Any], ...], words: Words) -> list[Message]:
    lines = "\n".join(_fill(words.tool, tool=_json(tool), function=_json(tool["function"])) for tool in tools)
    names = ", ".join(tool["function"]["name"] for tool in tools)
    text = _fill(words.system, tools=lines, names=names)
    if messages and messages[0].role in ("system", "developer"):
        first = messages[0]
        return [replace(first, content=f"{first.content}\n\n{text}" if first.content else text), *messages[1:]]
    return [Message("system", text), *messages]


def _fill(template: str, **values: str) -> str:
    """`template` with its slots filled, in one pass: braces inside a value stay as they are."""
    return _SLOT.sub(lambda slot: values[slot[1]], template)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
