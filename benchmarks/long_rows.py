"""Agent conversations of a given length in tokens, made up: many turns of calls and long results.

python benchmarks/long_rows.py --tokens 131072 --rows 8 --tokenizer FOLDER --out rows.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

WORDS = (
    "order",
    "invoice",
    "flight",
    "refund",
    "customer",
    "policy",
    "status",
    "ticket",
    "date",
    "city",
    "price",
    "page",
)


def turn(draw: random.Random, number: int) -> list[dict[str, Any]]:
    """What the agent says, a call, and a result of some 800 tokens."""
    call = {"name": "search", "arguments": {"query": " ".join(draw.choices(WORDS, k=4)), "page": number}}
    result = [
        {"id": draw.randrange(10**6), "text": " ".join(draw.choices(WORDS, k=12)), "price": draw.randrange(10**4) / 100}
        for _ in range(20)
    ]
    content = f"Page {number}: {' '.join(draw.choices(WORDS, k=60))}."
    return [
        {"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": json.dumps(result)},
    ]


def row(tokenizer: Any, tokens: int, seed: int) -> dict[str, Any]:
    """A conversation of just under `tokens` tokens, by the tokenizer's template."""
    draw = random.Random(seed)
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Look through all records of case {seed}."}]
    pieces = [turn(draw, number) for number in range(tokens // 500)]
    fewest, most = 1, len(pieces)
    while fewest < most:  # the length grows with the number of turns
        middle = (fewest + most + 1) // 2
        fits = length(tokenizer, [*messages, *joined(pieces[:middle])]) <= tokens
        fewest, most = (middle, most) if fits else (fewest, middle - 1)
    return {"messages": [*messages, *joined(pieces[:fewest])]}


def joined(pieces: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All of `pieces`, up to the last call."""
    return [message for piece in pieces for message in piece][:-1]


def length(tokenizer: Any, messages: list[dict[str, Any]]) -> int:
    return len(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"])


if __name__ == "__main__":
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    lines = [json.dumps(row(tokenizer, given.tokens, seed)) for seed in range(given.rows)]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
