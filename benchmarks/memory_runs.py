"""What QLoRA and long packs take on one GPU, beside what `agentsft plan` says of the same runs.

python -m benchmarks.memory_runs --tokenizer FOLDER --folder FOLDER --results memory.jsonl [--cases 8b-lora-.*] [--list]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from agentsft.plan.gpus import GPUS

CHECKPOINTED = ["--gradient-checkpointing"]
OFFLOADED = [*CHECKPOINTED, "--activation-offloading"]
LORA, QLORA = ["--tuner", "lora"], ["--tuner", "lora", "--load-in-4bit"]
CONTEXT = 131072
CASES: dict[str, tuple[str, int | None, int, list[str]]] = {
    "tiny-qlora-offloaded": ("tiny", None, 1500, [*QLORA, *OFFLOADED]),  # for CPUs: that all this runs
    "1.7b-16k": ("qwen3-1.7b", None, 13500, []),
    "1.7b-16k-checkpointed": ("qwen3-1.7b", None, 13500, CHECKPOINTED),
    "1.7b-64k-checkpointed": ("qwen3-1.7b", None, 59000, CHECKPOINTED),
    "1.7b-64k-offloaded": ("qwen3-1.7b", None, 59000, OFFLOADED),
    "1.7b-128k-offloaded": ("qwen3-1.7b", None, 117000, OFFLOADED),
    "8b-lora-16k": ("qwen3-8b", None, 13500, LORA),
    "8b-lora-64k-checkpointed": ("qwen3-8b", None, 59000, [*LORA, *CHECKPOINTED]),
    "8b-lora-64k-offloaded": ("qwen3-8b", None, 59000, [*LORA, *OFFLOADED]),
    "8b-lora-128k-offloaded": ("qwen3-8b", None, 117000, [*LORA, *OFFLOADED]),
    "8b-qlora-16k": ("qwen3-8b", None, 13500, QLORA),
    "8b-qlora-16k-checkpointed": ("qwen3-8b", None, 13500, [*QLORA, *CHECKPOINTED]),
    "8b-qlora-128k-offloaded": ("qwen3-8b", None, 117000, [*QLORA, *OFFLOADED]),
    # 16 of the 64 layers: the whole model's weights are larger than many a disk.
    "32b-16-layers-qlora-16k-checkpointed": ("qwen3-32b", 16, 13500, [*QLORA, *CHECKPOINTED]),
    "32b-16-layers-qlora-64k-offloaded": ("qwen3-32b", 16, 59000, [*QLORA, *OFFLOADED]),
}
"""Shape, layers (None: all), tokens of a conversation's longest path, settings."""


def called(*words: str) -> str:
    """The output of a command; raises with its last lines where it fails."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: a plan that does not fit
        raise RuntimeError(f"{' '.join(words[:4])}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def gpu_here() -> str:
    """The plan's name of this machine's GPU; H100 where it knows none such, or there is none."""
    here = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((name for name in GPUS if name in here), "H100")


def run(name: str, folder: Path, tokenizer: str, steps: int) -> dict[str, Any]:
    """Plan and train one case; figures of both."""
    shape, layers, tokens, settings = CASES[name]
    model, rows, output = folder / f"{shape}-{layers or 'all'}", folder / f"{tokens}.jsonl", folder / "output"
    if not model.exists():
        for other in folder.glob("qwen3-*"):  # one at a time: they are large
            shutil.rmtree(other)
        cut = ["--layers", str(layers)] if layers else []
        called("benchmarks/random_model.py", "--shape", shape, "--tokenizer", tokenizer, "--out", str(model),
               "--context", str(CONTEXT), *cut)  # fmt: skip
    if not rows.exists():
        called("benchmarks/long_rows.py", "--tokens", str(tokens), "--tokenizer", tokenizer, "--out", str(rows))
    pack = next(size for size in (16384, 65536, 131072) if tokens < 0.95 * size)
    common = ["--model", str(model), "--data", str(rows), "--micro-batch-tokens", str(pack), "--batch-size", "1",
              "--max-steps", str(steps), "--no-cache", *settings]  # fmt: skip
    planned = json.loads(called("-m", "agentsft", "plan", *common, "--gpu", gpu_here(), "--format", "json"))
    shutil.rmtree(output, ignore_errors=True)
    called("-m", "agentsft", "train", *common, "--learning-rate", "1e-6", "--output", str(output))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    info = json.loads((output / "run.json").read_text())
    seconds = statistics.median(line["seconds"] for line in lines[2:])  # the first two compile and pin memory
    return {
        "case": name,
        "device": info["device"],
        "versions": info["versions"],
        "pack": planned["work"]["pack"],
        "loss": [line["loss"] for line in lines],
        "seconds": seconds,
        "planned_seconds": planned["seconds"][1] / planned["work"]["steps"],
        "gib": max(line["memory_gib"] for line in lines),
        "planned_gib": planned["memory_gib"]["total"],
        "host_gib": planned["host_memory_gib"],
        "halved": sum(line.get("out_of_memory", 0) for line in lines),
        "mfu": statistics.median(line["mfu"] or 0.0 for line in lines[2:]),
    }


def shown(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"| {result['case']} | {result['failed'][:120]} |"
    columns = [result["case"], f"{result['pack']:,}"]
    for name in ("gib", "seconds"):
        planned = result[f"planned_{name}"]
        columns += [f"{result[name]:.2f}", f"{planned:.2f} ({planned / result[name] - 1:+.0%})"]
    return f"| {' | '.join(columns)} | {result['mfu']:.0%} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder with tokenizer and chat template")
    parser.add_argument("--folder", type=Path, help="where models, rows and outputs go")
    parser.add_argument("--results", type=Path, default=Path("memory.jsonl"))
    parser.add_argument("--cases", nargs="+", default=[".*"], help="patterns of names")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    names = [name for name in CASES if any(re.fullmatch(pattern, name) for pattern in given.cases)]
    if given.list:
        print("\n".join(names))
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| case | pack | GiB | planned | seconds a step | planned | mfu |\n|---|---|---|---|---|---|---|")
    failed = False
    for name in names:
        try:
            result = run(name, given.folder, given.tokenizer, given.steps)
        except (RuntimeError, OSError, ValueError, KeyError) as error:  # one case's failure is one line
            result, failed = {"case": name, "failed": " ".join(str(error).split())}, True
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(shown(result), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
