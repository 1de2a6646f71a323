"""Preparation of many conversations: time, memory and size, and what a kill and a second start cost.

python benchmarks/big_data.py make --out FOLDER [--files 100]          # 10,000 conversations a file
python benchmarks/big_data.py prepare FOLDER --model MODEL --files 10  # prepares the first 10 files and measures it

The conversations are those of examples/make_data.py, of another seed for each 257 of them, in every format that it
knows. A file that is there is not made again, and preparation goes on where a killed one ended.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count, islice
from pathlib import Path
from typing import Any

ROWS = 10_000
"""Conversations in a file."""


def make(out: Path, files: int, first: int, step: int) -> None:
    """Files number `first`, `first + step`, ... below `files`, written aside and renamed."""
    examples = Path(__file__).resolve().parent.parent / "examples"
    sys.path.insert(0, str(examples))
    import make_data

    out.mkdir(parents=True, exist_ok=True)
    for number in range(first, files, step):
        path = out / f"part-{number:03}.jsonl"
        if path.exists():
            continue
        seeds = count(1000 * number)
        rows: Any = (row for seed in seeds for name in make_data.FILES for row in make_data.rows(name, seed, set()))
        aside = path.with_suffix(".tmp")
        with aside.open("w", encoding="utf-8") as file:
            for k, row in enumerate(islice(rows, ROWS)):
                file.write(json.dumps({**row, "id": f"{number:03}-{k:05}"}, ensure_ascii=False) + "\n")
        os.replace(aside, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--files", type=int, default=100)
    making.add_argument("--first", type=int, default=0)
    making.add_argument("--step", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.out, arguments.files, arguments.first, arguments.step)
