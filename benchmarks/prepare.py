"""Rows a second of reading and of preparing (rendering, proof, encoding, trees), in one process; and by its CPU time,
which other work on the machine changes less.

python benchmarks/prepare.py FILE --model MODEL [--loss-scale react] [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer


def measure(config: DataConfig, runs: int) -> None:
    """Print the median rates of `runs` runs, each with nothing remembered from the one before."""
    tokenizer = load_tokenizer(config)
    reading, preparing, computing = [], [], []
    for _ in range(runs):
        preparer = load_preparer(config, tokenizer)
        started, computed = time.perf_counter(), time.process_time()
        rows = list(load_rows(config))
        read = time.perf_counter()
        count = sum(1 for _ in preparer.prepare(rows))
        reading.append(count / (read - started))
        preparing.append(count / (time.perf_counter() - started))
        computing.append(count / (time.process_time() - computed))
    print(
        f"read {statistics.median(reading):,.0f} rows/s, read and prepare {statistics.median(preparing):,.0f} rows/s, "
        f"{statistics.median(computing):,.0f} rows a CPU second"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--loss-scale", default="default")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    measure(DataConfig(model=arguments.model, data=[arguments.file], loss_scale=arguments.loss_scale), arguments.runs)
