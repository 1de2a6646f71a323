"""agentsft on 1, 2 and more GPUs of one machine: the same steps, with DDP and FSDP2.

python -m benchmarks.scaling --gpus 1 2 4 --cases ddp-T ddp-S fsdp-8B --tokenizer FOLDER --data FOLDER

Each case runs on each number of GPUs, with random weights of its shape, started by torchrun or Accelerate's launcher.
Printed are tokens/s (median of the steps after the warm-up), the speed against the same work on the fewest GPUs (median
over the steps; in this call, or by the same code on such GPUs in an earlier one that --results holds), the peak memory
of the GPU that took most against its arithmetic, the share of a step in which GPUs exchange something and in which they
do nothing else, and the difference of the first step's loss from that on the fewest GPUs, and of all steps'. Rows are
appended to --results. `--weak` gives each GPU as many conversations as one has alone. `--list` names the cases. With
--device cpu processes take the place of GPUs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu import Bench
from benchmarks.random_model import SHAPES
from benchmarks.report import latest
from benchmarks.workload import LEARNING_RATE


@dataclass(frozen=True)
class Case:
    """A work with a model of `shape`; `sharded` by FSDP2, else replicated by DDP."""

    work: str
    shape: str = "qwen3-1.7b"
    sharded: bool = False
    extra: tuple[str, ...] = ()


CHECKPOINTING = ("--gradient-checkpointing",)
LORA = ("--tuner", "lora")
CASES = {
    "ddp-T": Case("T"),
    "ddp-S": Case("S"),
    "fsdp-T": Case("T", sharded=True),
    "fsdp-S": Case("S", sharded=True),
    "fsdp-4B": Case("T", "qwen3-4b", True, CHECKPOINTING),
    "fsdp-8B": Case("T", "qwen3-8b", True, CHECKPOINTING),
    "fsdp-8B-each": Case("T", "qwen3-8b", True, (*CHECKPOINTING, "--sync-each-batch")),
    "fsdp-32B": Case("T", "qwen3-32b", True, CHECKPOINTING),
    "lora-8B": Case("T", "qwen3-8b", False, LORA),
    "lora-8B-fsdp": Case("T", "qwen3-8b", True, LORA),
    "lora-32B-fsdp": Case("T", "qwen3-32b", True, (*LORA, *CHECKPOINTING)),
}


def launched(options: argparse.Namespace, gpus: int, sharded: bool) -> list[str]:
    """The module, and its arguments, that start `gpus` processes of the worker."""
    if gpus == 1:
        return ["benchmarks.scaling_worker"]
    if options.launcher == "torchrun":
        return [
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(gpus),
            "-m",
            "benchmarks.scaling_worker",
        ]
    kind = ["--use_fsdp", "--fsdp_version", "2"] if sharded else ["--multi_gpu"]
    common = ["--num_processes", str(gpus), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    start = ["accelerate.commands.launch", *kind, *common, "--main_process_port", "0"]
    return [*start, "-m", "benchmarks.scaling_worker"]


def run_case(bench: Bench, name: str, gpus: int) -> dict[str, Any]:
    """Runs a case on `gpus` GPUs and measures it: its row of the results."""
    options, case = bench.options, CASES[name]
    work = bench.work(case.work)
    shape = options.shape or case.shape
    batch = work.batch * (gpus if options.weak else 1)
    out = bench.folder / "scaling" / f"{name}.{gpus}"  # of its own: two calls may run at once, each on a GPU
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = bench.model(shape)
    data = options.data if options.data.is_file() else bench.data(work)
    steps = options.warmup + options.steps + 1  # the last one begins no pass of another, and is not timed
    arguments = [
        "--model", str(model), "--data", str(data), "--output", str(out / "output"),
        "--batch-size", str(batch), "--loss-scale", work.loss_scale, "--max-steps", str(steps),
        "--learning-rate", str(LEARNING_RATE), *case.extra, *options.extra,
    ]  # fmt: skip
    if case.sharded and gpus > 1 and options.launcher == "torchrun":
        arguments.append("--fsdp")
    command = [*launched(options, gpus, case.sharded), str(out), "--", *arguments]
    state, _ = bench.run(f"{name}.{gpus}", options.limit, *command)
    files = sorted(out.glob("*.jsonl"))
    ranks = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    row = {"case": name, "gpus": gpus, "state": state, "shape": shape, "batch": batch, "weak": options.weak}
    row |= measure(ranks, options.warmup, options.steps)
    if "largest_pack" in row:
        row["expected_gib"] = expected(case, model, gpus, row["largest_pack"], row["passes"], options.device)
    return row


def measure(ranks: list[list[dict[str, Any]]], warmup: int, count: int | None = None) -> dict[str, Any]:
    """The figures of a run from the rows of each of its processes, the main one first; empty where it made no step.

    At most `count` steps are timed.
    """
    steps = [[row for row in rows if row["kind"] == "step"] for rows in ranks]
    if not steps or not steps[0]:
        return {}
    main = steps[0]
    found: dict[str, Any] = {
        "first_loss": main[0]["loss"],
        "losses": [row["loss"] for row in main],
        "largest_pack": main[0]["largest_pack"],
        "passes": max(row["passes"] for row in main),
        "peak_gib": max(row["memory_gib"] for rows in steps for row in rows),
        "each_peak_gib": [row["memory_gib"] for row in main],
    }
    seconds = [later["ended"] - sooner["ended"] for sooner, later in pairwise(main)]
    timed = list(zip(main[1:], seconds, strict=True))[max(warmup - 1, 0) :][:count]
    if timed:
        found["each_step"] = [row["tokens"] / took for row, took in timed]
        found["tokens_per_second"] = median(found["each_step"])
        found["seconds"] = median(took for _, took in timed)
        found["mfu"] = median(row["mfu"] or 0.0 for row, _ in timed)
        found["steps"] = len(timed)
        found["recompilations"] = main[-1]["compilations"] - main[max(warmup, 1) - 1]["compilations"]
    profiles = [row for rows in ranks for row in rows if row["kind"] == "profile"]
    if profiles:
        for key, name in (("exchange_seconds", "exchange_share"), ("alone_seconds", "alone_share")):
            found[name] = max(row[key] / row["step_seconds"] for row in profiles)
    return found


def expected(case: Case, model: Path, gpus: int, pack: int, passes: float, device: str) -> float | None:
    """GiB of each GPU by the arithmetic of `agentsft plan`; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    from agentsft.config import TrainConfig
    from agentsft.plan.memory import GIB, memory
    from agentsft.plan.shape import load_shape
    from agentsft.train.shard import sync_each_batch

    each = True if "--sync-each-batch" in case.extra else None
    config = TrainConfig(model=str(model), tuner="lora" if "lora" in case.extra else "full", sync_each_batch=each)
    shape, checkpointing = load_shape(config), CHECKPOINTING[0] in case.extra
    shards = gpus if case.sharded else 1
    once = passes > 1 and not sync_each_batch(config, shape.trainable, torch.device("cuda"))
    return memory(shape, pack, checkpointing, shards, waiting=shards > 1 and once).total / GIB


def against_fewest(rows: list[dict[str, Any]], before: Sequence[dict[str, Any]] = ()) -> None:
    """Adds to each row its speed and the difference of its losses against the same work on the fewest GPUs, of `rows`
    and those `before`."""
    for row in rows:
        same = [other for other in [*rows, *before] if other.get("tokens_per_second") and comparable(other, row)]
        if not same or not row.get("tokens_per_second"):
            continue
        base = min(same, key=lambda other: other["gpus"])
        row["times"] = row["tokens_per_second"] / base["tokens_per_second"]
        if row["batch"] == base["batch"]:  # the same conversations in each step, so step by step
            row["times"] = median(one / other for one, other in zip(row["each_step"], base["each_step"], strict=False))
        row["base_gpus"] = base["gpus"]
        if row["batch"] == base["batch"]:
            row["loss_difference"] = max(
                abs(one - other) / abs(other) for one, other in zip(row["losses"], base["losses"], strict=False)
            )
            row["first_loss_difference"] = abs(row["first_loss"] - base["first_loss"]) / abs(base["first_loss"])


def comparable(other: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether both are one work: the same case, or its twin on one GPU, where nothing is sharded; of as many
    conversations a step, or a GPU with --weak."""
    share = other["gpus"] / row["gpus"] if row["weak"] else 1.0
    if other["shape"] != row["shape"] or other["batch"] != row["batch"] * share:
        return False
    one, two = (replace(CASES[each["case"]], sharded=False) for each in (other, row))
    return other["case"] == row["case"] or (other["gpus"] == 1 and one == two)


COLUMNS = (
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("times", "times", "{:.2f}"),
    ("s/step", "seconds", "{:.2f}"),
    ("mfu", "mfu", "{:.1%}"),
    ("passes", "passes", "{:.1f}"),
    ("peak GiB", "peak_gib", "{:.1f}"),
    ("by arithmetic", "expected_gib", "{:.1f}"),
    ("exchanging", "exchange_share", "{:.0%}"),
    ("only that", "alone_share", "{:.0%}"),
    ("first loss", "first_loss_difference", "{:.1e}"),
    ("all losses", "loss_difference", "{:.1e}"),
    ("recompiled", "recompilations", "{}"),
    ("steps", "steps", "{}"),
)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all rows."""
    lines = [["case", "GPUs", *(heading for heading, *_ in COLUMNS), "remarks"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        figures = [form.format(row[key]) if row.get(key) is not None else "" for _, key, form in COLUMNS]
        state = "" if row["state"] == "ok" else row["state"].replace("|", "/")
        lines.append([row["case"], str(row["gpus"]), *figures, state])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], help="numbers of GPUs, the smallest first")
    parser.add_argument("--cases", nargs="+", default=["ddp-T", "ddp-S", "fsdp-8B", "lora-8B"], choices=CASES)
    parser.add_argument("--results", type=Path, default=Path("scaling.jsonl"))
    parser.add_argument("--tokenizer", type=Path, help="folder with Qwen 3's tokenizer and chat template")
    parser.add_argument("--data", type=Path, help="folder with the files of the works, or one file for all")
    folder = Path(tempfile.gettempdir(), "agentsft-benchmark")
    parser.add_argument("--folder", type=Path, default=folder, help="models, caches, logs; default: %(default)s")
    parser.add_argument("--launcher", choices=("torchrun", "accelerate"), default="torchrun")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=SHAPES, help="another model for all cases")
    parser.add_argument("--batch", type=int, help="conversations a step for all cases")
    parser.add_argument("--weak", action="store_true", help="as many conversations for each GPU as one has alone")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--limit", type=float, default=400, help="seconds for each run")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds for the whole call")
    parser.add_argument("--shortest", type=int, default=0, help="take so many of the shortest rows alone")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further arguments of agentsft train")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if not options.list and not (options.tokenizer and options.data):
        parser.error("--tokenizer and --data are needed")
    return options


def main() -> int:
    options = parse()
    if options.list:
        for name, case in CASES.items():
            print(name, case.work, case.shape, "FSDP2" if case.sharded else "DDP", *case.extra)
        return 0
    bench = Bench(options, options.folder, options.results, time.time() + options.budget)
    rows: list[dict[str, Any]] = []
    same = ("device", "code")
    before = [row for row in latest(options.results) if all(row[key] == bench.facts[key] for key in same)]
    for name in options.cases:
        for gpus in sorted(options.gpus):
            if bench.left() < 30:
                print(f"{name} on {gpus}: no time left", flush=True)
                continue
            row = run_case(bench, name, gpus)
            rows.append(row)
            against_fewest(rows, before)
            bench.keep(**row)
            print(table([row]).splitlines()[-1], flush=True)
    print(table(rows))
    return 0 if all(row["state"] == "ok" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
