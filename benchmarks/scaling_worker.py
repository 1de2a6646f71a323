"""`agentsft train` in one process of several, watched: time and memory of each step, and a profile of one.

torchrun --nproc_per_node 2 -m benchmarks.scaling_worker FOLDER -- --model MODEL ...

Each process writes FOLDER/RANK.jsonl. After the last step all of them compute it a second time under torch's profiler,
for the share of the time in which GPUs exchange something, and in which they do nothing else. No model is saved.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EXCHANGE = re.compile(r"nccl|gloo", re.IGNORECASE)
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


def exchanged(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Seconds in which something was exchanged, and in which nothing was computed meanwhile, from a trace's events."""
    events = [event for event in events if event.get("ph") == "X"]
    gpu = [event for event in events if event.get("cat") in ON_GPU]
    spans = gpu or [event for event in events if EXCHANGE.search(event["name"])]  # on a CPU only exchanges are known
    exchanges, work = [], []
    for event in spans:
        place = exchanges if EXCHANGE.search(event["name"]) else work
        place.append((event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6))
    everything = _length(exchanges + work)
    return {"exchange_seconds": _length(exchanges), "alone_seconds": everything - _length(work), "busy": everything}


def _length(spans: list[tuple[float, float]]) -> float:
    """How much time the union of `spans` covers."""
    total = until = 0.0
    for start, end in sorted(spans):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def main() -> None:
    folder, theirs = Path(sys.argv[1]), sys.argv[sys.argv.index("--") + 1 :]
    from agentsft.train.launch import expandable_memory

    expandable_memory()
    import torch
    import torch._logging
    from torch.profiler import ProfilerActivity, profile

    from agentsft.train import run as run_module
    from benchmarks.observed import allocator, compilations, largest_pack

    torch._logging.set_logs(recompiles=True)  # the reasons, in the log
    rank = os.environ.get("RANK", "0")
    file = (folder / f"{rank}.jsonl").open("a", encoding="utf-8")
    train_step = run_module.train_step
    cuda = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false") != "true"

    def write(**row: Any) -> None:
        file.write(json.dumps(row) + "\n")
        file.flush()

    def step(run: Any, number: int) -> dict[str, Any]:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        row = train_step(run, number)  # which waits for the device
        facts = {"ended": time.time(), "compilations": compilations(), **allocator()}
        facts |= {"passes": row["micro_batches"] / run.accelerator.num_processes}
        write(kind="step", **row | facts | ({} if number else {"largest_pack": largest_pack(run)}))
        if number == run.total_steps - 1:
            run.accelerator.wait_for_everyone()
            with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
                again = train_step(run, number)
                if cuda:
                    torch.cuda.synchronize()
            with tempfile.NamedTemporaryFile(suffix=".json") as trace:
                profiler.export_chrome_trace(trace.name)
                events = json.loads(Path(trace.name).read_text(encoding="utf-8", errors="replace"))["traceEvents"]
            write(kind="profile", step_seconds=again["seconds"], **exchanged(events))
        return row

    run_module.train_step = step
    run_module._finish = lambda *_: None
    from agentsft.cli.app import main as agentsft

    sys.argv = ["agentsft", "train", *theirs]
    agentsft()


if __name__ == "__main__":
    main()
