"""One block of a response to the calls in it, for every way of writing calls that is known here."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentsft.data.json_text import STRICT, parse_json, skip_space

Schemas = Mapping[str, Any]
"""Name of a tool -> the JSON Schema of its arguments, None where it is not known."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it was written. `fault` says why it cannot be carried out, and is empty where it can.

    `arguments` is an object; in ReAct's text, where `react` is set, any JSON value or a plain text.
    """

    name: str
    arguments: Any
    fault: str = ""
    react: bool = False


_RECIPIENT = re.compile(r"(?:^|\s)to=(?:functions\.)?([^\s<]+)")
_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_INVOKE = re.compile(r'<(?:\w+:)?invoke name="([^"\n]+)">(.*?)</(?:\w+:)?invoke>', re.DOTALL)
_INVOKE_PARAMETER = re.compile(r'<(?:\w+:)?parameter name="([^"\n]+)"[^>]*>(.*?)</(?:\w+:)?parameter>', re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_GEMMA = re.compile(r"call:([^{\s]+)(\{.*\})", re.DOTALL)
_DEEPSEEK = re.compile(r"<｜tool▁call▁begin｜>(.*?)<｜tool▁sep｜>(.*?)<｜tool▁call▁end｜>", re.DOTALL)
_KIMI = re.compile(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?(.+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>",
    re.DOTALL,
)
_END_OF_MESSAGE = re.compile(r"<\|\w+\|>\s*\Z")
_MISTRAL = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][^\[]*)?\[ARGS\]")


def read_block(block: str, schemas: Schemas) -> list[Call]:
    """The calls of a block that `label_response` calls a tool_call; at least one, faulty where it cannot be read.

    Formats that write values without quotes need the `schemas` to tell the text "3" from the number.
    """
    try:
        calls = _read(block, schemas)
    except (ValueError, RecursionError, SyntaxError, MemoryError) as error:
        return [Call("", None, " ".join(str(error).split())[:200] or type(error).__name__)]
    return calls or [Call("", None, "no call in the block")]


def _read(block: str, schemas: Schemas) -> list[Call]:
    if "<|message|>" in block:
        return _addressed(block, schemas)
    for opening, closing, read in _TAGGED:
        if block.startswith(opening):
            inner, closed, _ = block[len(opening) :].partition(closing)
            if not closed:
                raise ValueError(f"{closing} is missing")
            return read(inner.strip(), schemas)
    if block.startswith("<function="):
        return _functions(block, schemas)
    if block.startswith("[TOOL_CALLS]"):
        return _mistral(block.removeprefix("[TOOL_CALLS]").strip())
    if block.startswith("<|python_tag|>"):
        block = block.removeprefix("<|python_tag|>")
        if not block.lstrip().startswith("{"):
            return _python(block.strip(), suffix=".call")
    return _objects(block.strip())


def _addressed(block: str, schemas: Schemas) -> list[Call]:
    """A message with a recipient: gpt-oss writes the arguments as JSON, others one XML element for each call."""
    header, _, content = block.partition("<|message|>")
    content = _END_OF_MESSAGE.sub("", content)
    if "invoke name=" in content:
        return _invokes(content, schemas)
    recipient = _RECIPIENT.search(header)
    return [_made(recipient[1] if recipient else "", parse_json(content))]


def _made(name: Any, arguments: Any) -> Call:
    if not isinstance(name, str) or not name.strip():
        return Call("", None, "no name")
    if not isinstance(arguments, dict):
        return Call(name.strip(), None, "arguments are no JSON object")
    return Call(name.strip(), arguments)


def _from_object(value: Any) -> Call:
    if not isinstance(value, dict):
        return Call("", None, f"no JSON object but a {type(value).__name__}")
    arguments = next((value[key] for key in ("arguments", "parameters") if key in value), None)
    return _made(value.get("name", value.get("tool_name")), arguments)


def _objects(text: str, schemas: Schemas | None = None) -> list[Call]:
    """JSON objects, one after another or in a list, with line breaks or semicolons between them."""
    calls: list[Call] = []
    position = 0
    while position < len(text):
        value, end = STRICT.raw_decode(text, position)
        calls += map(_from_object, value if isinstance(value, list) else [value])
        position = skip_space(text, end)
        if text.startswith(";", position):
            position = skip_space(text, position + 1)
    return calls


def _tool_call(inner: str, schemas: Schemas) -> list[Call]:
    """The inside of <tool_call>: Hermes' JSON, XML parameters (Qwen 3.5, Nemotron), or keys and values (GLM)."""
    if inner.startswith("<function="):
        return _functions(inner, schemas)
    if inner.startswith(("{", "[")):
        return _objects(inner)
    name, first, _ = inner.partition("<arg_key>")
    name = name.strip()
    if not name or re.search(r"[\s<{]", name):
        raise ValueError("neither JSON nor a function's name")
    rest = inner[len(inner.partition(first)[0]) :] if first else ""
    if _ARGUMENT.sub("", rest).strip():
        raise ValueError("an argument is not closed")
    return [Call(name, {key: typed(value, name, key, schemas) for key, value in _ARGUMENT.findall(rest)})]


def _functions(text: str, schemas: Schemas) -> list[Call]:
    return _elements(text, _FUNCTION, _PARAMETER, schemas)


def _invokes(text: str, schemas: Schemas) -> list[Call]:
    text = re.sub(r"</?(?:\w+:)?(?:function_calls|tool_call)>", "", text)
    return _elements(text, _INVOKE, _INVOKE_PARAMETER, schemas)


def _elements(text: str, element: re.Pattern[str], parameter: re.Pattern[str], schemas: Schemas) -> list[Call]:
    if element.sub("", text).strip():
        raise ValueError("a call is not closed, or text stands beside it")
    calls = []
    for name, body in element.findall(text):
        if parameter.sub("", body).strip():
            raise ValueError("a parameter is not closed, or text stands beside it")
        pairs = parameter.findall(body)
        calls.append(Call(name.strip(), {key: typed(value, name.strip(), key, schemas) for key, value in pairs}))
    return calls


_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


def typed(text: str, tool: str, key: str, schemas: Schemas) -> Any:
    """The value that an argument written without quotes stands for, as the tool's schema declares it."""
    schema = schemas.get(tool)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    declared = properties.get(key) if isinstance(properties, dict) else None
    kind = declared.get("type") if isinstance(declared, dict) else None
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    if kinds == ["string"]:
        return text
    if text.strip() in _CONSTANTS:
        return _CONSTANTS[text.strip()]
    if "string" in kinds:
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text


def _gemma(inner: str, _: Schemas) -> list[Call]:
    match = _GEMMA.fullmatch(inner)
    if match is None:
        raise ValueError("no call:name{...}")
    value, end = _gemma_value(match[2], 0)
    if end < len(match[2]):
        raise ValueError("text behind the arguments")
    return [_made(match[1], value)]


_QUOTE = '<|"|>'
_BARE = re.compile(r"[^,{}\[\]]*")


def _gemma_value(text: str, at: int) -> tuple[Any, int]:
    """A value of Gemma's notation, and where it ends: bare keys, texts between `<|"|>`, the rest as in JSON."""
    if text.startswith(_QUOTE, at):
        end = text.index(_QUOTE, at + len(_QUOTE))
        return text[at + len(_QUOTE) : end], end + len(_QUOTE)
    if text.startswith(("{", "["), at):
        closing = "}" if text[at] == "{" else "]"
        pairs: dict[str, Any] = {}
        items: list[Any] = []
        at += 1
        while not text.startswith(closing, at):
            if closing == "}":
                colon = text.index(":", at)
                key, at = text[at:colon].strip().removeprefix(_QUOTE).removesuffix(_QUOTE), colon + 1
                pairs[key], at = _gemma_value(text, at)
            else:
                item, at = _gemma_value(text, at)
                items.append(item)
            if text.startswith(",", at):
                at += 1
            elif not text.startswith(closing, at):
                raise ValueError(f"{closing} is missing")
        return (pairs if closing == "}" else items), at + 1
    match = _BARE.match(text, at)
    assert match is not None
    word = match[0].strip()
    return (_CONSTANTS[word] if word in _CONSTANTS else parse_json(word)), match.end()


def _python(inner: str, _: Schemas | None = None, suffix: str = "") -> list[Call]:
    """Calls as Python writes them, `[f(a='x'), g(b=3)]`, read and never run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of escapes in a text that is not ours to mend
        tree = ast.parse(inner, mode="eval").body
    calls = tree.elts if isinstance(tree, ast.List) else [tree]
    return [_python_call(call, suffix) for call in calls]


def _python_call(call: ast.expr, suffix: str) -> Call:
    if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
        raise ValueError("no call with named arguments")
    arguments = {str(word.arg): _python_value(word.value) for word in call.keywords}
    return Call(ast.unparse(call.func).removesuffix(suffix), arguments)


def _python_value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_python_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_python_value(key) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        return dict(zip(keys, map(_python_value, node.values), strict=True))
    value = ast.literal_eval(node)
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError(f"a {type(value).__name__} is no JSON value")
    return value


def _mistral(text: str) -> list[Call]:
    calls, position = [], 0
    if text.startswith(("[", "{")):
        return _objects(text)
    while position < len(text):
        match = _MISTRAL.match(text, position)
        if match is None:
            raise ValueError("no name[ARGS]{...}")
        value, position = STRICT.raw_decode(text, skip_space(text, match.end()))
        calls.append(_made(match[1], value))
        position = skip_space(text, position)
        position += len("[TOOL_CALLS]") if text.startswith("[TOOL_CALLS]", position) else 0
    return calls


def _deepseek(inner: str, _: Schemas) -> list[Call]:
    calls = []
    for before, after in _DEEPSEEK.findall(inner):
        if before.strip() != "function" or "```json" not in after:  # V3.1 has the name in front, and JSON alone
            calls.append(_made(before, parse_json(after.strip())))
            continue
        name, _, fenced = after.partition("```json")
        calls.append(_made(name, parse_json(fenced.strip().removesuffix("```"))))
    return calls


def _kimi(inner: str, _: Schemas) -> list[Call]:
    return [_made(name, parse_json(arguments)) for name, arguments in _KIMI.findall(inner)]


_TAGGED: tuple[tuple[str, str, Callable[[str, Schemas], list[Call]]], ...] = (
    ("<tool_call>", "</tool_call>", _tool_call),
    ("<seed:tool_call>", "</seed:tool_call>", _functions),
    ("<minimax:tool_call>", "</minimax:tool_call>", _invokes),
    ("<atem:function_calls>", "</atem:function_calls>", _invokes),
    ("<|tool_call>", "<tool_call|>", _gemma),
    ("<|tool_call_start|>", "<|tool_call_end|>", _python),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _kimi),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _deepseek),
    ("<|START_ACTION|>", "<|END_ACTION|>", _objects),
)
"""Opening, closing, and what reads the inside."""
