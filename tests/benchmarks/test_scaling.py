"""How the benchmark of several GPUs counts; it has none here, so the steps and traces are made up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.scaling import CASES, against_fewest, measure, table
from benchmarks.scaling_worker import exchanged
from benchmarks.workload import WORKS


def event(name: str, start: float, end: float, category: str = "kernel") -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start * 1e6, "dur": (end - start) * 1e6}


def step(number: int, ended: float, **values: Any) -> dict[str, Any]:
    facts = {
        "loss": 2.0 - number,
        "tokens": 100,
        "largest_pack": 128,
        "compilations": 3,
        "memory_gib": 1.0,
        "passes": 2.0,
        "mfu": 0.5,
    }
    return {"kind": "step", "ended": ended, **facts, **values}


def test_an_exchange_beside_computation_is_not_time_lost() -> None:
    trace = [event("nvjet", 0, 4), event("ncclDevKernel_ReduceScatter", 3, 6), event("ncclKernel_AllGather", 5, 7)]
    found = exchanged([*trace, event("cudaLaunch", 0, 99, "cuda_runtime")])
    assert (found["exchange_seconds"], found["alone_seconds"], found["busy"]) == pytest.approx((4, 3, 7))


def test_on_a_cpu_exchanges_are_known_by_name() -> None:
    found = exchanged([event("gloo:all_reduce", 1, 2, "cpu_op"), event("aten::mm", 0, 5, "cpu_op")])
    assert (found["exchange_seconds"], found["alone_seconds"]) == pytest.approx((1, 1))


def test_rates_are_medians_after_the_warm_up_and_memory_is_the_largest_process() -> None:
    ends = [10.0, 20.0, 21.0, 23.0, 24.0]
    main = [step(i, end) for i, end in enumerate(ends)]
    other = [step(i, end, memory_gib=1.5) for i, end in enumerate(ends)]
    other.append({"kind": "profile", "step_seconds": 2.0, "exchange_seconds": 1.0, "alone_seconds": 0.5})
    found = measure([main, other], warmup=2)
    assert (found["tokens_per_second"], found["seconds"], found["steps"]) == (100, 1.0, 3)
    assert (found["peak_gib"], found["exchange_share"], found["alone_share"]) == (1.5, 0.5, 0.25)
    assert measure([[]], warmup=2) == {}


def row(case: str, gpus: int, speeds: list[float], losses: list[float], batch: int = 8) -> dict[str, Any]:
    figures = {"tokens_per_second": median(speeds), "each_step": speeds, "losses": losses, "first_loss": losses[0]}
    facts = {"case": case, "gpus": gpus, "state": "ok", "shape": "tiny", "weak": False}
    return {**facts, "batch": batch, **figures}


def test_runs_are_compared_step_by_step_with_the_same_case_on_the_fewest_gpus() -> None:
    rows = [row("ddp-T", 2, [100, 20, 90], [2.0, 1.0]), row("ddp-T", 4, [190, 40, 190], [2.0, 1.1])]
    failed = row("ddp-T", 1, [1], [2.0])
    del failed["tokens_per_second"], failed["each_step"], failed["losses"], failed["first_loss"]
    rows.insert(0, failed)
    against_fewest(rows)
    assert (rows[2]["times"], rows[2]["base_gpus"]) == (2.0, 2)  # of 1.9, 2 and 2.1; by the medians 2.1
    assert rows[2]["loss_difference"] == pytest.approx(0.1)
    assert rows[2]["first_loss_difference"] == 0
    shown = table(rows).splitlines()
    assert len(shown) == 2 + len(rows)
    assert len({line.count("|") for line in shown}) == 1


def test_only_runs_of_one_work_are_compared() -> None:
    rows = [row("fsdp-T", 2, [36.0], [1.0], batch=8), row("ddp-S", 2, [19.0], [1.0], batch=16)]
    rows += [{**row("ddp-T", 2, [38.0], [3.0], batch=16), "weak": True}]
    against_fewest(rows, before=[row("ddp-T", 1, [20.0], [1.0]), row("ddp-S", 1, [10.0], [1.0])])
    assert rows[0]["times"] == 1.8  # on one GPU nothing is sharded
    assert rows[1]["times"] == 1.0  # with itself alone: other batches are other steps
    assert (rows[2]["times"], "loss_difference" in rows[2]) == (1.9, False)


def test_every_case_is_of_a_known_work() -> None:
    assert {case.work for case in CASES.values()} <= WORKS.keys()


def scaled(folder: Path, tokenizer: Any, *arguments: str) -> list[dict[str, Any]]:
    """Rows of the benchmark with tiny models on CPUs, one timed step each, on one process and on two."""
    root = Path(__file__).parents[2]
    tokenizer.save_pretrained(folder / "tokenizer")
    command = [sys.executable, "-m", "benchmarks.scaling", "--device", "cpu", "--shape", "tiny", "--gpus", "1", "2"]
    command += ["--tokenizer", str(folder / "tokenizer"), "--batch", "4", "--steps", "1", "--warmup", "1"]
    command += ["--data", str(root / "examples" / "data" / "tool_calls.jsonl"), "--folder", str(folder)]
    command += ["--results", str(folder / "results.jsonl"), *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_have_the_losses_of_one(launcher: str, tmp_path: Path, qwen_tokenizer: Any) -> None:
    cases = ["ddp-T", "fsdp-T", "lora-8B-fsdp"]
    rows = scaled(tmp_path, qwen_tokenizer, "--launcher", launcher, "--cases", *cases)
    assert [(row["case"], row["gpus"]) for row in rows] == [(case, gpus) for case in cases for gpus in (1, 2)]
    for row in rows:
        assert row["loss_difference"] < 1e-5
        assert (row["exchange_share"] > 0) == (row["gpus"] > 1)


@pytest.mark.slow
def test_layers_are_compiled_once_where_they_are_sharded(tmp_path: Path, qwen_tokenizer: Any) -> None:
    extra = ["--extra", "--torch-compile", "--gradient-checkpointing"]
    _, sharded = scaled(tmp_path, qwen_tokenizer, "--cases", "fsdp-T", *extra)
    assert sharded["loss_difference"] < 1e-5
    assert sharded["recompilations"] == 0
