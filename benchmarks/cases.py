"""The cases of the benchmark: agentsft with its options, and its peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One line of the table. `peer` is '' for agentsft; `extra` are arguments of agentsft train or benchmarks.peers,
    `settings` are torch's, MODULE.NAME=VALUE."""

    name: str
    work: str
    peer: str = ""
    extra: tuple[str, ...] = ()
    steps: int = 5
    profile: bool = False
    fresh: bool = False
    limit: int = 180
    settings: tuple[str, ...] = ()


FP8 = ("rowwise", "tensorwise")
TUNED = ("torch._inductor.config.coordinate_descent_tuning=True",)


def all_cases() -> list[Case]:
    cases = [Case("T.cold", "T", steps=1, fresh=True)]
    for work in ("T", "S", "L"):
        slow = 2 if work == "L" else 1
        cases += [
            Case(f"{work}.agentsft", work, profile=True),
            Case(f"{work}.no-share", work, extra=("--no-share-prefixes",)),
            Case(f"{work}.checkpointing", work, extra=("--gradient-checkpointing",)),
            Case(f"{work}.split", work, extra=("--layout", "split"), steps=4 - slow, limit=280),
            Case(f"{work}.trl", work, "trl", steps=3, limit=180 * slow),
            Case(f"{work}.trl-liger", work, "trl-liger", steps=3, limit=180 * slow),
            Case(f"{work}.trl-one", work, "trl", ("--rows", "1"), steps=3, limit=180 * slow),
            Case(f"{work}.trl-liger-one", work, "trl-liger", ("--rows", "1"), steps=3, limit=180 * slow),
            Case(f"{work}.trl-liger-packed", work, "trl-liger-packed", steps=3, limit=180 * slow),
            Case(f"{work}.transformers", work, "transformers", steps=3, limit=180 * slow),
        ]
    bf16 = ("--dtype", "bfloat16")
    return [
        *cases,
        Case("S.default-weights", "S", extra=("--loss-scale", "default")),
        *(Case(f"{work}.fp8-{kind}", work, profile=True, extra=("--fp8", kind)) for work in ("T", "S") for kind in FP8),
        *(Case(f"{work}.tuned", work, profile=True, settings=TUNED, limit=240) for work in ("T", "S")),
        Case("tau2.agentsft", "tau2", steps=6),
        Case("tau2.no-share", "tau2", extra=("--no-share-prefixes",), steps=6),
        Case("tau2.32k", "tau2", extra=("--micro-batch-tokens", "32768"), steps=6),
        Case("L.32k", "L", extra=("--micro-batch-tokens", "32768")),
        Case("L.32k-checkpointing", "L", extra=("--micro-batch-tokens", "32768", "--gradient-checkpointing")),
        *(Case(f"{work}.trl-liger-bf16", work, "trl-liger", bf16, steps=3) for work in ("T", "L")),
        *(Case(f"{work}.trl-liger-packed-bf16", work, "trl-liger-packed", bf16, steps=3) for work in ("T", "L")),
    ]
