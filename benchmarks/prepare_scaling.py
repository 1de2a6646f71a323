"""CPU time of preparing a conversation, by its number of turns: where it is linear in text, the last column is level.

python benchmarks/prepare_scaling.py FILE --model MODEL [--turns 5 10 20 40 80]

The conversations of FILE, each from its first user message on, are put one behind the other, under the first one's
system prompt and tools, and cut after so many assistant messages. One thread, medians of 5 runs with nothing
remembered from the one before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer
from agentsft.types import Message, Row


def joined(rows: Sequence[Row], turns: int) -> Row:
    """One row of so many turns, made of as many rows as that takes."""
    conversations = [row.conversation for row in rows if row.conversation]
    messages: list[Message] = [m for m in conversations[0].messages if m.role == "system"]
    count = 0
    for conversation in conversations:
        first = next(k for k, message in enumerate(conversation.messages) if message.role == "user")
        for message in conversation.messages[first:]:
            messages.append(message)
            count += message.role == "assistant"
            if count == turns:
                return replace(rows[0], conversation=replace(conversations[0], messages=tuple(messages)))
    raise SystemExit(f"the file has only {count} turns")


def measure(config: DataConfig, turns: Sequence[int], runs: int) -> None:
    tokenizer = load_tokenizer(config)
    rows = list(load_rows(config))
    print("turns  messages  characters  milliseconds  microseconds per 1,000 characters")
    for count in turns:
        row = joined(rows, count)
        seconds = []
        for _ in range(runs):
            preparer = load_preparer(config, tokenizer)
            started = time.process_time()
            [example] = preparer.prepare([row])
            seconds.append(time.process_time() - started)
        if example.refusal or not example.turns or not example.conversation:
            raise SystemExit(f"refused: {example.refusal}")
        last = example.turns[-1]
        characters = len(last.prompt) + len(last.response) + len(last.suffix)
        median = statistics.median(seconds)
        print(
            f"{len(example.turns):5}  {len(example.conversation.messages):8}  {characters:10,}  {median * 1e3:12.1f}  "
            f"{median * 1e9 / characters:33.0f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--turns", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--chat-template")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = DataConfig(
        model=arguments.model, data=[arguments.file], chat_template=arguments.chat_template, max_length=10**9
    )
    measure(settings, arguments.turns, arguments.runs)
