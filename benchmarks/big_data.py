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


def prepare(folder: Path, files: int, model: str, processes: int, agent_format: str | None) -> dict[str, Any]:
    """What preparing the first `files` files into an empty cache takes, and a second start from it."""
    paths = [str(path) for path in sorted(folder.glob("part-*.jsonl"))[:files]]
    with tempfile.TemporaryDirectory(dir=folder, prefix="cache-") as cache:
        measured: dict[str, Any] = {
            "rows": ROWS * len(paths),
            "input_mb": round(sum(os.path.getsize(path) for path in paths) / 1e6),
        }
        for kind in ("prepare", "start"):
            command = [sys.executable, __file__, "child", model, str(processes), agent_format or "", *paths]
            found = subprocess.run(
                command, env={**os.environ, "AGENTSFT_CACHE": cache}, check=True, capture_output=True
            )
            measured[kind] = json.loads(found.stdout.splitlines()[-1])
        size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    return {**measured, "prepared_mb": round(size / 1e6)}


def child(model: str, processes: int, agent_format: str | None, paths: list[str]) -> dict[str, Any]:
    """Prepares (or finds) the rows in this process and reads 64 trees anywhere in them."""
    import numpy as np

    from agentsft.config import DataConfig
    from agentsft.encode.cache import prepare_cached
    from agentsft.encode.load import load_preparer

    config = DataConfig(model=model, data=paths, num_proc=processes, agent_format=agent_format)
    preparer = load_preparer(config)
    started = time.perf_counter()
    examples = prepare_cached(config, preparer)
    prepared = time.perf_counter()
    trees = examples.trees
    chosen = np.random.default_rng(0).permutation(len(trees))[:64]
    assert all(len(trees[k]) == trees.lengths[k] for k in chosen)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": round(prepared - started, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used), 1),
        "first_trees_seconds": round(time.perf_counter() - prepared, 2),
        "peak_mib": used[0].ru_maxrss // 1024,
        "largest_worker_mib": used[1].ru_maxrss // 1024,
        "trees": len(trees),
        "tokens": int(trees.lengths.sum()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--files", type=int, default=100)
    making.add_argument("--first", type=int, default=0)
    making.add_argument("--step", type=int, default=1)
    preparing = commands.add_parser("prepare")
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("--model", required=True)
    preparing.add_argument("--files", type=int, default=1)
    preparing.add_argument("--num-proc", type=int, default=2)
    preparing.add_argument("--agent-format")
    if sys.argv[1:2] == ["child"]:
        _, _, model, processes, agent_format, *paths = sys.argv
        print(json.dumps(child(model, int(processes), agent_format or None, paths)))
        sys.exit()
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.out, arguments.files, arguments.first, arguments.step)
    else:
        a = arguments
        print(json.dumps(prepare(a.folder, a.files, a.model, a.num_proc, a.agent_format)))
