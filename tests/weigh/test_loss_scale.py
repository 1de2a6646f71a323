"""What every strategy makes of a response, and how strategies combine."""

from __future__ import annotations

import pickle
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.errors import UserError
from agentsft.weigh.loss_scale import BASES, LossScale, list_strategies, parse_loss_scale
from agentsft.weigh.strategy import Strategy
from agentsft.weigh.table import strategy_from_table

REACT = {
    "Action:": (2, 2),
    "Action Input:": (2, 2),
    "Thought:": (1, 1),
    "Final Answer:": (1, 1),
    "Observation:": (2, 0),
}
FLAN_KEYWORDS = (
    "Name:|Action:|ACTION:|Tool:|Command|Arguments:|action input|ACTION_INPUT:|Action Input:"  # one a call may use
)
FLAN_PHRASES = (
    "What is the tool you want to use",
    "What are the required parameter names for this tool",
    "What are the required parameter names",
    "What is the value of",
)
SEED = "<seed:think>{}<seed:cot_budget_reflect>{}</seed:cot_budget_reflect>\n</seed:think>\n\n"
SEED_EMPTY = SEED.format("", "The current thinking budget is 0, so I will directly start answering the question.")

# The whole table: strategy -> kind of pattern -> pattern -> weights.
TABLE = {
    "ignore_empty_think": {
        "regex": {r"<think>\s*</think>\s*": (0,)},
        "regex at start": {
            r"\s*</think>\s*": (0,),
            r"<seed:think>\s*<seed:cot_budget_reflect>[^<]*budget is 0[^<]*</seed:cot_budget_reflect>"
            r"\s*</seed:think>\s*": (0,),
            r"<\|channel>thought\n<channel\|>": (0,),
            r"\s*</mm:think>\s*": (0,),
        },
    },
    "ignore_think_prefix": {"regex at start": {r"<think>\n?": (0,)}},
    "react": {"keyword": REACT},
    "hermes": {"regex": {"<tool_call>.+?</tool_call>": (2,)}},
    "qwen": {
        "keyword": {"✿FUNCTION✿:": (2, 2), "✿ARGS✿:": (2, 2), "✿RETURN✿:": (1, 1), "✿RESULT✿:": (2, 0)},
    },
    "agentflan": {
        "keyword": {
            **dict.fromkeys(FLAN_KEYWORDS.split("|"), (1, 3)),
            "Thought:": (1, 1),
            "Final Answer:": (1, 1),
            "Observation:": (2, 0),
        },
        "query": dict.fromkeys(FLAN_PHRASES, (3,)),
    },
    "alpha_umi": {"keyword": {**REACT, "Next:": (2, 2)}},
}


def weighed(spec: str, response: str, query: str | None = None) -> list[tuple[str, float]]:
    """The response cut where its weight changes."""
    pieces: list[tuple[str, float]] = []
    for span in parse_loss_scale(spec).spans(response, query):
        text = response[span.start : span.end]
        if pieces and pieces[-1][1] == span.weight:
            pieces[-1] = (pieces[-1][0] + text, span.weight)
        else:
            pieces.append((text, span.weight))
    return pieces


def test_the_data_files_are_the_documented_table():
    built_in = [strategy for strategy in list_strategies() if strategy.origin == "built in"]
    table: dict[str, dict[str, dict[str, tuple]]] = {strategy.name: {} for strategy in built_in}
    for strategy in built_in:
        assert strategy.description.endswith(".")
        for kind, pattern, weights in strategy.rows:
            assert pattern not in table[strategy.name].setdefault(kind, {})
            table[strategy.name][kind][pattern] = weights
    assert table == TABLE


LITERALS = {
    "default": [("Thought: t\n<tool_call>a</tool_call>", 1)],
    "react": [
        ("Sure. Thought: t\n", 1),
        ("Action: a\nAction Input: {}\nObservation:", 2),
        (" o\n", 0),
        ("Final Answer: f", 1),
    ],
    "alpha_umi": [("Thought: t\n", 1), ("Next: caller. Action: a\nObservation:", 2), (" o", 0)],
    "hermes": [
        ("Hm\n", 1),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', 2),
        ("\n", 1),
        ("<tool_call>g</tool_call>", 2),
        ("\nok <tool_call>", 1),
    ],
    "qwen": [("Hm ", 1), ("✿FUNCTION✿: f\n✿ARGS✿: {}\n✿RESULT✿:", 2), (" r\n", 0), ("✿RETURN✿: a", 1)],
    "agentflan": [
        ("Thought: t\nAction:", 1),
        (" a\n", 3),
        ("Action Input:", 1),
        (" {}\n", 3),
        ("Observation:", 2),
        (" o\n", 0),
        ("ACTION_INPUT:", 1),
        (" x run", 3),
        ("Command", 1),
        (" y", 3),
    ],
    "ignore_empty_think": [
        ("a ", 1),
        ("<think> \n </think>\n\n", 0),
        ("b <think>\nc\n</think> </think> </mm:think> <|channel>thought\n<channel|>", 1),
    ],
    "ignore_think_prefix": [("<think>\n", 0), ("\nhm</think>\n<think>\n", 1)],
    "last_round_with_ignore_empty_think": [("<think></think>\n\n<think>\n</think>", 0), ("a", 1)],
    "react+ignore_empty_think": [
        ("<think>\n</think>\n\n", 0),
        ("Action: a ", 2),
        ("<think></think> ", 0),
        ("Action Input: b\nObservation:", 2),
        (" <think></think> o", 0),
    ],
    "react+hermes": [("Action: ", 2), ("<tool_call>a</tool_call>", 4), (" b", 2)],
    "hermes+ignore_think_prefix": [("<think>", 0), ("x", 1), ("<tool_call><think></tool_call>", 2), ("<think>", 1)],
}


@pytest.mark.parametrize("spec", LITERALS)
def test_characters_weigh(spec):
    assert weighed(spec, "".join(text for text, _ in LITERALS[spec])) == LITERALS[spec]


@pytest.mark.parametrize(
    ("empty", "weight"),
    [
        ("</think>\n\n", 0),
        (SEED_EMPTY, 0),
        ("<|channel>thought\n<channel|>", 0),
        ("</mm:think>\n", 0),
        ("\n</mm:think>\n", 0),
        ("\n</think>\n\n", 0),
        (" x\n</think>\n", 1),
        ("<|channel>thought\nhm\n<channel|>", 1),
        (SEED.format("hm", "The current thinking budget is 0."), 1),
        (SEED.format("", "I have used 129 tokens, and there are 383 tokens left."), 1),
        ("<THINK></THINK>", 1),
    ],
)
def test_other_models_empty_blocks_count_at_the_start_alone(empty, weight):
    assert weighed("ignore_empty_think", empty + "A") == ([(empty, 0), ("A", 1)] if weight == 0 else [(empty + "A", 1)])
    assert weighed("ignore_empty_think", "A" + empty) == [("A" + empty, 1)]


def test_a_query_with_a_phrase_weighs_the_whole_response():
    for phrase in FLAN_PHRASES:
        assert weighed("agentflan", "Observation: x", f"So? {phrase} it?") == [("Observation: x", 3)]
    assert weighed("agentflan+hermes", "a<tool_call>b</tool_call>", "What is the value of b?") == [
        ("a", 3),
        ("<tool_call>b</tool_call>", 6),
    ]
    assert weighed("agentflan", "a", "what is the value of b?") == [("a", 1)]
    assert weighed("react", "a", "What is the value of b?") == [("a", 1)]


def test_spans_carry_labels_and_join_equal_neighbours():
    response = "<think>\n\n</think>\n\n<tool_call>a</tool_call><tool_call>b</tool_call>"
    spans = parse_loss_scale("ignore_empty_think+hermes").spans(response, None)
    assert [(response[s.start : s.end], s.weight, s.label) for s in spans] == [
        ("<think>\n\n</think>\n\n", 0.0, "think"),
        ("<tool_call>a</tool_call><tool_call>b</tool_call>", 2.0, "tool_call"),
    ]


def test_a_spec_is_a_base_and_names():
    scale = parse_loss_scale("last_user_turn+react + hermes")
    assert (scale.base, [s.name for s in scale.strategies]) == ("last_user_turn", ["react", "hermes"])
    assert parse_loss_scale("default+react").strategies == parse_loss_scale("react").strategies
    alias = parse_loss_scale("last_round_with_ignore_empty_think")
    assert alias.name == "last_round_with_ignore_empty_think"
    written_out = parse_loss_scale("last_round+ignore_empty_think")
    assert (alias.base, alias.strategies) == (written_out.base, written_out.strategies)
    for base in BASES:
        assert parse_loss_scale(base) == LossScale(base, base, ())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reakt", "unknown name 'reakt'. Did you mean \"react\"?"),
        ("last_rond", 'Did you mean "last_round"?'),
        ("last_round+hermess", 'Did you mean "hermes"?'),
        ("last_round_with_ignore_think", 'Did you mean "last_round_with_ignore_empty_think"?'),
        ("react+", "unknown name ''"),
        ("", "unknown name ''"),
        ("React", 'Did you mean "react"?'),
        ("react+last_round", "there is one base, and it comes first: 'last_round+react'"),
        ("all+default", "there is one base"),
        ("no/such/table.json", "no/such/table.json: no such file"),
    ],
)
def test_a_bad_spec_says_what_to_write(spec, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        parse_loss_scale(spec)
    assert "\n" not in str(error.value)


SPECS = [*TABLE, "default", "react+hermes", "ignore_empty_think+agentflan", "last_round+qwen+ignore_think_prefix"]
TOKENS = [
    *(pattern for kinds in TABLE.values() for pattern in kinds.get("keyword", {})),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "</mm:think>", "<|channel>thought\n<channel|>"),
    *(SEED_EMPTY, "\n", " ", "{}", "Action", "✿"),
]
responses = st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=12).map("".join)
queries = st.none() | st.sampled_from(["hm", *FLAN_PHRASES])


@given(st.sampled_from(SPECS), responses, queries)
def test_spans_partition_the_response_with_weights_of_the_table(spec, response, query):
    scale = parse_loss_scale(spec)
    spans = scale.spans(response, query)
    assert [span.start for span in spans] + [len(response)] == [0] + [span.end for span in spans]
    for span in spans:
        assert span.start < span.end
        assert 0 <= span.weight <= 6
    assert all((a.weight, a.label) != (b.weight, b.label) for a, b in pairwise(spans))
    assert scale.spans(response, query) == spans, "a strategy is a pure function"
    assert pickle.loads(pickle.dumps(scale)).spans(response, query) == spans  # noqa: S301 (its own dump)


@given(st.lists(st.sampled_from(sorted(TABLE)), min_size=1, max_size=4), responses, queries)
def test_strategies_multiply(names, response, query):
    def characters(spec: str) -> list[float]:
        return [
            span.weight for span in parse_loss_scale(spec).spans(response, query) for _ in range(span.start, span.end)
        ]

    product = [1.0] * len(response)
    for name in names:
        product = [a * b for a, b in zip(product, characters(name), strict=True)]
    assert characters("+".join(names)) == product


def defined_weights(strategy: Strategy, response: str) -> list[float]:
    """The weights of keywords and expressions as their definition reads, one character after the other."""
    by_keyword, by_regex = [], []
    after, i = 1.0, 0
    while i < len(response):
        here = [k for k in strategy.keywords if response.startswith(k[0], i)]
        if here:
            keyword, own, after = max(here, key=lambda k: len(k[0]))
            by_keyword += [own] * len(keyword)
            i += len(keyword)
        else:
            by_keyword.append(after)
            i += 1
    i = 0
    while i < len(response):
        at_start = [r for r in strategy.regexes if not r.at_start or i == 0]
        matches = [(re.compile(r.text, re.DOTALL).match(response, i), r.weight) for r in at_start]
        first = next(((m, w) for m, w in matches if m and m.end() > i), None)
        by_regex += [first[1]] * (first[0].end() - i) if first else [1.0]
        i = first[0].end() if first else i + 1
    return [a * b for a, b in zip(by_keyword, by_regex, strict=True)]


patterns = st.text("ab", min_size=1, max_size=3)
weights = st.sampled_from([0, 0.5, 1, 1, 2, 3])
expressions = st.dictionaries(
    st.sampled_from(
        ["a", "ab", "b+", "a*", "a.+?b", "ab.*?a", "b.+?b", "^b", "(?<=a)b", "(a)b\\1", "a|ba", "^a|bb", "a.b"]
    ),
    weights,
    max_size=3,
)


@settings(max_examples=500)
@given(
    st.dictionaries(patterns, st.tuples(weights, weights).map(list), max_size=4),
    expressions,
    expressions,
    st.text("abc\n", max_size=16),
    st.sampled_from(["built in", "file x.json"]),
)
def test_any_table_weighs_as_its_definition_reads(keywords, regex, regex_at_start, response, origin):
    table = {"keywords": {"c": [1, 1], **keywords}, "regex": regex, "regex_at_start": regex_at_start}
    strategy = strategy_from_table(table, "x", origin, "x.json")
    spans = LossScale("x", "default", (strategy,)).spans(response, None)
    assert [span.weight for span in spans for _ in range(span.start, span.end)] == defined_weights(strategy, response)
