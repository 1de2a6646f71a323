"""Rows that are there twice are found, against the first of them, and told apart from rows that only look alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.lint.duplicates import Duplicates
from agentsft.types import Conversation, Example, TokenTree
from tests.conversations import WEATHER, answer, user


def tree(ids: Sequence[int], weight: float = 1.0) -> TokenTree:
    tokens = np.array(ids, np.int32)
    n = len(tokens)
    targets = np.array([n - 2], np.int32), tokens[-1:], np.array([weight], np.float32), np.zeros(1, np.int8)
    return TokenTree(tokens, np.arange(n, dtype=np.int32), np.full(n, n, np.int32), *targets)


def example(index: int, ids: Sequence[int], id: str | None = None, file: str = "f", weight: float = 1.0) -> Example:
    return Example(index, f"{file}.jsonl:{index + 1}", tree=tree(ids, weight), id=id)


def found(*rows: Example | tuple[Example, Conversation]) -> list[tuple[str, int, str]]:
    duplicates = Duplicates()
    for row in rows:
        duplicates.add(*(row if isinstance(row, tuple) else (row,)))
    return [(one.kind, one.row, one.first) for one in duplicates.found()]


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=3), max_size=12))
def test_every_row_with_the_tokens_of_an_earlier_one_is_reported_once_against_the_first(rows: list[list[int]]) -> None:
    expected = [
        ("duplicate_text", i, f"f.jsonl:{rows.index(ids) + 1}") for i, ids in enumerate(rows) if rows.index(ids) < i
    ]
    assert found(*(example(i, ids) for i, ids in enumerate(rows))) == expected


def test_names_count_in_all_files_and_numbers_in_their_own() -> None:
    named = [example(0, [1, 2], "a"), example(1, [1, 3], "a", file="g"), example(2, [1, 4], "b")]
    assert found(*named) == [("duplicate_id", 1, "f.jsonl:1")]
    numbered = [example(0, [1, 2], "7"), example(1, [1, 3], "7", file="g"), example(2, [1, 4], "7")]
    assert found(*numbered) == [("duplicate_id", 2, "f.jsonl:1")]


def test_the_same_tokens_with_other_weights_are_contradictory() -> None:
    rows = [example(0, [1, 2]), example(1, [1, 2], weight=2.0), example(2, [1, 2])]
    kinds = [(kind, row) for kind, row, _ in found(*rows)]
    assert kinds == [("duplicate_text", 1), ("duplicate_text", 2), ("contradictory_duplicate", 1)]


def test_another_last_response_to_the_same_messages_is_contradictory_and_other_messages_are_not() -> None:
    said = Conversation((user("2+2?"), answer("4")))
    rows = [
        said,
        Conversation((user("2+2?"), answer("5"))),
        Conversation((user("2+2?"), answer("5")), (WEATHER,)),
        Conversation((user("2+2?"), answer("5"), user("Sure?"), answer("4"))),
        replace(said, id="x"),
    ]
    pairs = [(example(i, [9, i]), conversation) for i, conversation in enumerate(rows)]
    assert found(*pairs) == [("contradictory_duplicate", 1, "f.jsonl:1")]


def test_refused_rows_have_nothing_to_compare() -> None:
    assert found(*(Example(i, f"f.jsonl:{i + 1}") for i in range(3))) == []


def test_rows_shared_with_other_data_are_counted() -> None:
    one, other = Duplicates(), Duplicates()
    for i, ids in enumerate([[1, 2], [1, 3], [1, 2]]):
        one.add(example(i, ids))
    one.add(Example(3, "f.jsonl:4"))
    other.add(example(0, [1, 2]))
    other.add(Example(1, "g.jsonl:2"))
    assert (one.shared_with(other), other.shared_with(one)) == (2, 1)


def test_a_hundred_thousand_rows_take_seconds() -> None:
    duplicates = Duplicates()
    ids = np.arange(2000, dtype=np.int32)
    row = example(0, ids, "name")
    assert row.tree is not None
    started = time.process_time()
    for i in range(100_000):
        row.tree.input_ids[0] = i % 50_000
        duplicates.add(row)
    assert sum(one.kind == "duplicate_text" for one in duplicates.found()) == 50_000
    assert time.process_time() - started < 5
