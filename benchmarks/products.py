"""A layer's matrix products at Qwen3-1.7B's shape, repeated for long: as many products as it has, and joined.

python -m benchmarks.products [--tokens 14336 15872] [--seconds 0.7]

A GPU that has computed for a while clocks lower than one that has just rested, so each line is the median of what comes
after 0.3 s. Weights' gradients are added to float32 sums, as in training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

SHAPES = {
    "q": (2048, 2048),
    "k": (1024, 2048),
    "v": (1024, 2048),
    "o": (2048, 2048),
    "gate": (6144, 2048),
    "up": (6144, 2048),
    "down": (2048, 6144),
}
"""Outputs and inputs of each weight."""
JOINED = {"q, k, v": (4096, 2048), "o": (2048, 2048), "gate, up": (12288, 2048), "down": (2048, 6144)}


def milliseconds(run: Callable[[], Any], seconds: float, repeats: int = 5) -> float:
    times: list[float] = []
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began = time.perf_counter()
    while time.perf_counter() - began < 0.3 + seconds:
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        if time.perf_counter() - began > 0.3:
            times.append(start.elapsed_time(end) / repeats)
    return sorted(times)[len(times) // 2]


def products(shapes: dict[str, tuple[int, int]], tokens: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """Forward, gradient of the input and gradient of the weight, for each weight, on random numbers."""
    random = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, (outputs, inputs) in shapes.items():
        weight, x, gradient = random(outputs, inputs) * 0.02, random(tokens, inputs), random(tokens, outputs)
        total = torch.zeros(outputs, inputs, device="cuda")
        found[name, "forward"] = partial(torch.mm, x, weight.t())
        found[name, "of the input"] = partial(torch.mm, gradient, weight)
        found[name, "of the weight"] = partial(torch.addmm, total, gradient.t(), x, out_dtype=torch.float32, out=total)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[14336, 15872])
    parser.add_argument("--seconds", type=float, default=0.7)
    given = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}\n| tokens | products | ms | TFLOP/s |\n|---|---|---|---|")
    flops = {name: 2 * outputs * inputs for shapes in (SHAPES, JOINED) for name, (outputs, inputs) in shapes.items()}
    for tokens in given.tokens:
        for label, shapes in (("apart", SHAPES), ("joined", JOINED)):
            runs = products(shapes, tokens)
            groups = {f"all, {label}": list(runs)} | {f"{name} {kind}": [(name, kind)] for name, kind in runs}
            for group, members in groups.items():
                took = milliseconds(lambda members=members, runs=runs: [runs[one]() for one in members], given.seconds)
                rate = sum(flops[name] for name, _ in members) * tokens / took / 1e9
                print(f"| {tokens:,} | {group} | {took:.3f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
