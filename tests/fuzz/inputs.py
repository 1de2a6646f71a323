"""What the fuzzers feed: bytes, rows, conversations, tables and templates, with a liking for what has meaning."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from agentsft.config import TrainConfig
from agentsft.data.messages import MESSAGE_FIELDS, ROLES
from agentsft.types import Conversation, Message, ToolCall
from tests.conversations import WEATHER

FRAGMENTS = (
    "<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<|", "|>", "<|eot_id|>", "<|return|>", "<|channel|>",
    "<|message|>", "<|start|>", "<|call|>", "<think>", "</think>", "<think>\n\n</think>\n\n", "<tool_call>",
    "</tool_call>", "<tool_response>", "assistant", "user\n", "Thought: ", "Action: f", "Action Input: {}",
    "Observation: ", "Final Answer: ", "\n", "\r\n", " ", "\t", "\0", "\x1b[2J", "\u2028", "\ufeff", "\u200b",
    "e\u0301", "é", "数字", "🙂", "\U0010ffff", "✿FUNCTION✿", "✿ARGS✿: ", '{"name": "f", "arguments": {}}',
    "{{ x }}", "{% if", "a", "word ", "4", "\\n", '"', "\\u0000", "[", "]", "{", "}", ":",
)  # fmt: skip
TEXT = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=6).map("".join)

NUMBERS = st.integers(-3, 3) | st.floats() | st.sampled_from([2**31, 2**63, -(2**64), 10**400])
NAMES = st.sampled_from(
    [*MESSAGE_FIELDS, "role", "from", "content", "value", "type", "text", "tool_calls", "function_call",
     "function", "name", "arguments", "parameters", "input", "id", "tool_call_id", "tool_use_id", "tools",
     "functions", "reasoning", "thinking", "reasoning_content", "loss", "train", "weight", "loss_scale",
     "system", "history", "instruction", "output", "prompt", "completion", "images", "chat_template_kwargs",
     "properties", "anyOf", "default", "human", "assistant", "x"]
)  # fmt: skip
WORDS = st.sampled_from([*ROLES, "text", "tool_use", "tool_result", "image_url", "function", "null", "[]", "{}", "usr"])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=5)
        | inner.map(lambda value: json.dumps(value, default=str))
    ),
    max_leaves=12,
)
MESSAGES = st.dictionaries(NAMES, VALUES, max_size=4).flatmap(
    lambda extra: st.builds(
        lambda role, content: {"role": role, "content": content, **extra},
        st.sampled_from(sorted(ROLES)),
        TEXT | VALUES,
    )
)
RECORDS = (
    st.builds(lambda items, extra: {"messages": items, **extra}, st.lists(MESSAGES | VALUES, max_size=4),
              st.dictionaries(NAMES, VALUES, max_size=2))
    | st.dictionaries(NAMES, VALUES, max_size=5)
    | VALUES
)  # fmt: skip

CALLS = st.builds(
    ToolCall,
    st.sampled_from(["get_weather", "f"]) | TEXT.filter(str.strip),
    st.dictionaries(
        st.sampled_from(["city", "unit"]) | TEXT, TEXT | st.integers() | st.lists(TEXT, max_size=2), max_size=2
    )
    | TEXT,
    st.none() | st.just("call00001") | TEXT,
)
_SWITCHES: dict[str, Any] = {"train": st.none() | st.booleans(), "weight": st.none() | st.sampled_from([0.0, 0.5, 2.0])}
_PLAIN = st.builds(Message, st.sampled_from(["user", "tool", "system", "developer"]), TEXT, name=st.none() | TEXT)
_ANSWERS = st.builds(
    Message, st.just("assistant"), TEXT, st.none() | TEXT, st.lists(CALLS, max_size=2).map(tuple), **_SWITCHES
)
CONVERSATIONS = st.builds(
    Conversation,
    (st.lists(_PLAIN | _ANSWERS, min_size=1, max_size=6) | st.lists(_PLAIN | _ANSWERS, min_size=10, max_size=16)).map(
        tuple
    ),
    st.sampled_from([(), (), (WEATHER,)]),
    st.dictionaries(st.sampled_from(["enable_thinking", "bos_token", "x"]), st.booleans() | TEXT, max_size=1),
)

_PATTERN_PARTS = st.sampled_from(
    ["a", ".", ".*", ".+?", "(a|aa)+", "(a+)+", "$", "^", "\\s*", "\\b", "(?=a)", "(?<=a)", "(?!b)", "[^<]*",
     "<think>", "</think>", "\\1", "(a)", "{2,3}", "{1000}", "|", "(?i)", "(?P<n>a)", "(?P=n)", "\\Z",
     "\\u0061", "[[a]", "(", ")", "*", "+", "?", "[a-z]", "\\p{L}", "{e<=2}"]
)  # fmt: skip
PATTERNS = st.lists(_PATTERN_PARTS, min_size=1, max_size=6).map("".join) | TEXT
_WEIGHTS = st.sampled_from([0, 1, 2, 0.5, 1e30, 1e300, -1, None, True, "2", [1], [1, 2]])
_QUERIES = st.fixed_dictionaries({"text": TEXT | st.lists(TEXT, max_size=2), "weight": _WEIGHTS})
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "keywords": st.dictionaries(TEXT, st.tuples(_WEIGHTS, _WEIGHTS).map(list) | _WEIGHTS, max_size=3),
        "regex": st.dictionaries(PATTERNS, _WEIGHTS, max_size=3),
        "regex_at_start": st.dictionaries(PATTERNS, _WEIGHTS, max_size=2),
        "query_contains": st.lists(_QUERIES, max_size=2),
        "description": TEXT,
    },
) | st.dictionaries(PATTERNS, _WEIGHTS, max_size=3)
RESPONSES = TEXT | st.tuples(TEXT, st.integers(1, 40)).map(lambda pair: pair[0] * pair[1])

_YAML_PARTS = st.sampled_from(
    ["model: ", "data: ", "seed: ", "template_kwargs: ", "learning_rate: ", "- ", "&a ", "*a", "<<: ",
     "!!python/name:os.system", "!!binary ", "!!set ", "!!timestamp ", "? ", "{", "}", "[", "]", ", ", ": ",
     "\n", "\n  ", "'", '"', "|\n ", ">\n ", "---\n", "...\n", ".nan", ".inf", "1e999", "0x", "ffff", "1:30",
     "2024-01-01", "2024-13-41T99", "true", "~", "#", "%YAML 9\n", "\0", "\t", "x", "9",
     *(field + ": " for field in vars(TrainConfig()))]
)  # fmt: skip
RECIPES = st.lists(_YAML_PARTS | TEXT, max_size=14).map(lambda parts: "".join(parts).encode(errors="surrogatepass"))

_TEMPLATE_PARTS = st.sampled_from(
    ["{{ ", " }}", "{% ", " %}", "{%- ", "{# ", " #}", "for m in messages", "endfor", "if m.role == 'user'",
     "elif", "else", "endif", "set x = ", "namespace(a=1)", "macro f(x)", "endmacro", "f(1)", "m.content",
     "m['role']", "messages", "messages[0]", "loop.index0", "|tojson", "|trim", "|length", "|join('')",
     "|map(attribute='role')", "|attr('__class__')", ".__class__", ".append(1)", "range(99)", "range(10**9)",
     " * 10**9", "**10**9", " // 0", " % 2", " ~ ", " + ", "'<|im_start|>'", "'<|im_end|>\n'", "'a'", "0", "1",
     "raise_exception('x')", "add_generation_prompt", "tools", "bos_token", "include 'x'", "generation",
     "endgeneration", "break", "do x", "lipsum(9)", "cycler", "joiner()", "dict(a=1)", "self", "caller()",
     "recursive", "loop(m)", "is defined", "is mapping", "[1:]", "[::-1]", ".items()", ".format(1)",
     "'{:>99}'", "(", ")", "[", "]", "none", "true", "not ", " and ", " in ", "\n", "x"]
)  # fmt: skip
TEMPLATES = st.lists(_TEMPLATE_PARTS | TEXT, max_size=16).map("".join)
