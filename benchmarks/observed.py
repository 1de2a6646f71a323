"""`agentsft train` in this process, watched: time, memory and compilations of each step, and a profile of one.

python -m benchmarks.observed STEPS.jsonl [--profile] [--kernel flash|triton] [--gradients FILE]
    [--set torch._inductor.config.NAME=VALUE] -- --model MODEL ...

What follows `--` are the arguments of `agentsft train`. With --profile its last step but one is computed a second time
behind the last, under torch's profiler: how long the GPU was busy from its first kernel to its last, and where it
waited. (A step by itself runs up to two percent faster than one behind others: a GPU that has just rested clocks
higher. And none of its passes is begun ahead.) The final model is not saved.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KINDS = (
    ("element-wise and reductions", r"^triton_(poi|red|per)_"),  # their names list what they were fused from
    ("attention backward", r"(?=.*(flash|flex_attention|fmha|sdpa|attention))(?=.*(bwd|backward|bprop))"),
    ("attention forward", r"flash|flex_attention|fmha|sdpa|attention"),
    ("optimizer and clipping", r"multi_tensor_apply|adam|lpnorm"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|xmma|splitk|matmul|mm_|gemv"),
    ("copies and casts", r"memcpy|memset|copy_kernel|copy_device"),
    ("element-wise and reductions", r""),
)
"""What a kernel does, by its name in lower case; the first match counts."""

LONGEST = 40
"""How many kernels a profile names."""


def kind_of(kernel: str) -> str:
    return next(kind for kind, pattern in KINDS if re.search(pattern, kernel.lower()))


def summarise(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Seconds from the GPU's first kernel to its last and in which it was busy, seconds by kind, the longest kernels,
    and between which two kernels it waited longest, from a Chrome trace's events."""
    spans = []
    kinds: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            start, seconds = event["ts"] / 1e6, event["dur"] / 1e6
            spans.append((start, start + seconds, event["name"][:100]))
            kinds[kind_of(event["name"])] += seconds
            kernels[event["name"][:100]] += seconds
    busy, gaps = 0.0, []
    first = until = min(spans, default=(0.0, 0.0, ""))[0]
    last = ""
    for start, end, name in sorted(spans):  # kernels of several streams may overlap
        gaps.append((start - until, last, name))
        busy += max(end - max(start, until), 0.0)
        if end > until:
            until, last = end, name
    return {
        "span_seconds": until - first,
        "busy_seconds": busy,
        "kinds": {kind: round(kinds[kind], 4) for kind, _ in KINDS},
        "longest": [(name, round(seconds, 4)) for name, seconds in kernels.most_common(LONGEST)],
        "gaps": [(round(seconds, 5), *names) for seconds, *names in sorted(gaps, reverse=True)[:LONGEST]],
    }


def compilations() -> int:
    """Functions and kernels that this process has compiled so far: Dynamo's frames and FlashAttention-4's kernels."""
    from torch._dynamo.utils import counters

    interface = sys.modules.get("flash_attn.cute.interface")
    functions = [getattr(interface, name, None) for name in ("_flash_attn_fwd", "_flash_attn_bwd")]
    caches = [getattr(function, "compile_cache", None) for function in functions]
    flash = sum(len(cache) for cache in caches if hasattr(cache, "__len__"))
    return counters["frames"]["total"] + flash


def largest_pack(run: Any) -> int:
    """Tokens of the largest pack of the first step, padding included."""
    from agentsft.train.memory import columns

    return max(columns(pack, run.multiple) for pack in run.plan(0).packs)


def allocator() -> dict[str, Any]:
    """GiB that torch has taken of the GPU's memory, how often it has taken some, and how often it was at its end."""
    import torch

    if not torch.cuda.is_available():
        return {}
    stats = torch.cuda.memory_stats()
    names = {"taken": "segment.all.allocated", "mapped": "num_device_alloc", "retried": "num_alloc_retries"}
    return {"reserved_gib": stats["reserved_bytes.all.peak"] / 2**30} | {
        key: stats.get(name) for key, name in names.items()
    }


def profiled(call: Any) -> dict[str, Any]:
    """The summary of what the GPU does during `call`."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        trace = json.loads(Path(file.name).read_text(encoding="utf-8", errors="replace"))
    return summarise(trace["traceEvents"])


class Watch:
    """Stands in for the functions of agentsft.train that it watches."""

    def __init__(self, options: argparse.Namespace) -> None:
        from agentsft.train import loop, run, setup

        self.options, self.preparing = options, 0.0
        self.file = options.steps.open("a", encoding="utf-8")
        self.train_step, self.update, self.choose_kernel = run.train_step, loop._update, setup.choose_kernel
        run.train_step, setup.choose_kernel, run._finish = self.step, self.kernel, lambda *_: None
        loop._update = self.before_update
        for owner, name in ((loop, "collate"), (loop.Run, "prepared")):
            setattr(owner, name, self.timed(getattr(owner, name)))

    def write(self, **values: Any) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()

    def timed(self, function: Any) -> Any:
        """`function`, its time added to `preparing` where the thread that trains computes it or waits for it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                if threading.current_thread() is threading.main_thread():
                    self.preparing += time.perf_counter() - started

        return call

    def step(self, run: Any, step: int, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.preparing = 0.0
        row = self.train_step(run, step, *args, **kwargs)
        facts = {"step": step, "ended": time.time(), "compilations": compilations(), **allocator()}
        facts |= {"kind": "step", "preparing": self.preparing, "rows_of_data": len(run.trees)}
        self.write(**row | facts | ({} if step else {"largest_pack": largest_pack(run)}))
        if self.options.profile and step == run.total_steps - 1:
            self.profile(run, step, *args, **kwargs)
        return row

    def profile(self, run: Any, last: int, *args: Any, **kwargs: Any) -> None:
        """Profiles the step before the `last` one, which may be a short one at the end of an epoch."""
        step, whole = max(last - 1, 0), run.total_steps
        run.total_steps = step + 1  # so that no pass of another step is begun in it
        try:
            summary = profiled(lambda: self.train_step(run, step, *args, **kwargs))
        except Exception as error:  # the steps that were timed stand without it
            self.write(kind="note", text=f"no profile: {' '.join(str(error).split())[:150]}")
        else:
            self.write(kind="profile", step=step, **summary)
        finally:
            run.total_steps = whole

    def kernel(self, attention: Any, config: Any, dtype: Any, batches: Any) -> str:
        from agentsft.train.flash import obstacle

        note = self.choose_kernel(attention, config, dtype, batches)
        wanted = self.options.kernel
        if wanted:
            head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            attention.flash = wanted == "flash" and not obstacle(batches[0].input_ids.device, head_dim, dtype)
        self.write(kind="attention", kernel="FlashAttention-4" if attention.flash else "Triton flex", note=note)
        return note

    def before_update(self, run: Any, *args: Any, **kwargs: Any) -> Any:
        if self.options.gradients:
            from safetensors.torch import save_file

            save_file(chosen_gradients(run.accelerator.unwrap_model(run.module).model), str(self.options.gradients))
            self.options.gradients = None
        return self.update(run, *args, **kwargs)


def chosen_gradients(model: Any) -> dict[str, Any]:
    """Gradients, float32 on the host, of a few matrices at the model's beginning, middle and end, by name."""
    last = model.config.num_hidden_layers - 1
    parts = {f"layers.0.self_attn.{name}_proj.weight" for name in "qkv"}
    parts |= {f"layers.{last // 2}.self_attn.k_proj.weight", f"layers.{last}.mlp.down_proj.weight", "model.norm.weight"}
    return {
        name: parameter.grad.detach().float().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and name.endswith(tuple(parts))
    }


def main() -> None:
    own, theirs = sys.argv[1:], []
    if "--" in own:
        cut = own.index("--")
        own, theirs = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--kernel", choices=("flash", "triton"))
    parser.add_argument("--gradients", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="MODULE.NAME=VALUE", help="a setting of torch")
    options = parser.parse_args(own)

    from agentsft.train.launch import expandable_memory

    expandable_memory()
    import torch._logging

    for setting in options.set:
        place, _, value = setting.partition("=")
        module, _, name = place.rpartition(".")
        setattr(importlib.import_module(module), name, ast.literal_eval(value))

    torch._logging.set_logs(recompiles=True)  # the reasons, in the log
    Watch(options)
    from agentsft.cli.app import main as agentsft

    sys.argv = ["agentsft", "train", *theirs]
    agentsft()


if __name__ == "__main__":
    main()
