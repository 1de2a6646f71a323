"""What the proof of every row costs, as a share of preparation: with it and without it in turns, in one process.

python benchmarks/proof.py FILE --model MODEL [--agent-format hermes] [--loss-scale react] [--runs 11]

Proof is: the ids of each response decode to its text, spans partition it, and the tree's targets are its tokens.
Times are CPU seconds of this process, so that other work on the machine does not count; `inside` is the time measured
within the proof itself, `apart` the median difference of runs with and without.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from agentsft.config import DataConfig
from agentsft.encode import prepare
from agentsft.encode.bytelevel import TokenBytes
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer

PROOFS = ((TokenBytes, "join"), (prepare, "span_fault"), (prepare, "tree_fault"))


class _AnyText:
    """Equal to every text."""

    def __eq__(self, other: object) -> bool:
        return True


@contextmanager
def replaced(make: Callable[[str, Any], Any]) -> Iterator[None]:
    """Each proof replaced by what `make` gives for its name and function."""
    before = [getattr(owner, name) for owner, name in PROOFS]
    for (owner, name), function in zip(PROOFS, before, strict=True):
        setattr(owner, name, make(name, function))
    try:
        yield
    finally:
        for (owner, name), function in zip(PROOFS, before, strict=True):
            setattr(owner, name, function)


def without(name: str, function: Any) -> Any:
    """A proof that finds nothing wrong, at once."""
    passed = _AnyText() if name == "join" else None
    return lambda *arguments: passed


def measure(config: DataConfig, runs: int) -> None:
    """Print the medians of `runs` pairs of runs."""
    tokenizer = load_tokenizer(config)
    rows = list(load_rows(config))

    def seconds() -> float:
        preparer = load_preparer(config, tokenizer)  # nothing is remembered from the run before
        started = time.process_time()
        for _ in preparer.prepare(rows):
            pass
        return time.process_time() - started

    inside: dict[str, float] = dict.fromkeys((name for _, name in PROOFS), 0.0)

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            started = time.process_time()
            found = function(*arguments)
            inside[name] += time.process_time() - started
            return found

        return call

    seconds()
    pairs = []
    for run in range(runs):
        times = {}
        for proven in (True, False) if run % 2 else (False, True):
            if proven:
                times[True] = seconds()
            else:
                with replaced(without):
                    times[False] = seconds()
        pairs.append((times[True], times[False]))
    with replaced(timed):
        total = seconds()
    whole = statistics.median(proven for proven, _ in pairs)
    apart = statistics.median(proven - bare for proven, bare in pairs)
    shares = ", ".join(f"{name} {100 * value / total:.2f}%" for name, value in inside.items())
    print(f"{len(rows) / whole:,.0f} rows/s with proof; apart {100 * apart / whole:+.2f}%; inside {shares}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--loss-scale", default="default")
    parser.add_argument("--agent-format")
    parser.add_argument("--reasoning", default="keep")
    parser.add_argument("--runs", type=int, default=11)
    arguments = parser.parse_args()
    settings = DataConfig(
        model=arguments.model,
        data=[arguments.file],
        loss_scale=arguments.loss_scale,
        agent_format=arguments.agent_format,
        reasoning=arguments.reasoning,
        max_length=10**6,
    )
    measure(settings, arguments.runs)
