"""What strategies of weighing do to what a model does: train each with several seeds, evaluate, compare.

python benchmarks/strategies.py --model MODEL --data TRAIN.jsonl --eval-data HELD_OUT.jsonl --output DIR \\
    [--strategy default --strategy react --strategy mask_history] [--seeds 3] [--limit N] [--max-new-tokens N] \\
    [-- FLAGS OF agentsft train, such as --num-train-epochs 2 --learning-rate 1e-4]

A strategy is a --loss-scale; mask_history stands for --mask-history, alone or joined (mask_history+react). Every run
is one `agentsft train` and one `agentsft eval`, each in a process of its own; the model as it is, untuned, is
evaluated too. Started again with the same arguments it goes on where it was stopped. The weights of a run that is
evaluated are removed, unless --keep is given. Needs one GPU, or patience and a CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentsft.evaluate.intervals import LEVEL, estimate, ratios
from agentsft.evaluate.judge import METRICS
from agentsft.types import LABELS

_WEIGHTS = ("*.safetensors", "checkpoint-*")


@dataclass
class Counts:
    """One evaluation: by metric (or `loss LABEL`), what counts and out of how many, float64[conversations] each."""

    part: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]


def main(arguments: argparse.Namespace) -> None:
    """Do what is not done yet, and print what is there after every run."""
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    strategies = arguments.strategy or ["default", "react", "mask_history"]
    _evaluate(arguments, arguments.model, output / "untuned")
    for seed in range(arguments.seeds):
        for strategy in strategies:
            folder = output / f"{strategy.replace('+', '_')}-seed{seed}"
            if not _is_evaluated(folder / "eval"):
                _train(arguments, strategy, seed, folder)
                _evaluate(arguments, str(folder), folder / "eval")
            if not arguments.keep:
                _discard(folder)
    table = _table(output, strategies, arguments.seeds)
    (output / "table.md").write_text(table, encoding="utf-8")
    print(table)


def _train(arguments: argparse.Namespace, strategy: str, seed: int, folder: Path) -> None:
    parts = strategy.split("+")
    scale = "+".join(part for part in parts if part != "mask_history") or "default"
    words = ["train", "--model", arguments.model, "--loss-scale", scale, "--seed", str(seed), "--output", str(folder)]
    words += ["--mask-history"] if "mask_history" in parts else []
    words += [word for path in arguments.data for word in ("--data", path)]
    _run([*words, *arguments.train, "--resume"], folder.name)


def _evaluate(arguments: argparse.Namespace, model: str, output: Path) -> None:
    if _is_evaluated(output):
        return
    words = ["eval", model, *arguments.eval_data, "--output", str(output), "--resume"]
    for name in ("limit", "max_new_tokens", "batch_tokens"):
        value = getattr(arguments, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    _run(words, output.name if output.name != "eval" else output.parent.name)


def _is_evaluated(folder: Path) -> bool:
    try:
        return "metrics" in json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _run(words: list[str], name: str) -> None:
    print(f"== {name}: agentsft {' '.join(words)}", flush=True)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "agentsft", *words], check=False)
    if done.returncode:
        sys.exit(f"{name}: agentsft {words[0]} ended with {done.returncode}")
    print(f"== {name}: {words[0]} took {time.perf_counter() - started:.0f} s", flush=True)


def _discard(folder: Path) -> None:
    for path in (path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def counts(folder: Path) -> Counts:
    """The counts of the evaluation in `folder`."""
    conversations = _lines(folder / "conversations.jsonl")
    n = len(conversations)
    part = {name: np.zeros(n) for name in METRICS}
    whole = {name: np.zeros(n) for name in METRICS}
    for row in _lines(folder / "results.jsonl"):
        for name, good in row["verdicts"].items():
            part[name][row["conversation"]] += good
            whole[name][row["conversation"]] += 1
    for label in LABELS:
        name = f"loss {label}"
        found = [row["by_label"].get(label, {"nll": 0.0, "tokens": 0}) for row in conversations]
        part[name] = np.array([one["nll"] for one in found])
        whole[name] = np.array([one["tokens"] for one in found], np.float64)
    return Counts(part, whole)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _table(output: Path, strategies: list[str], seeds: int) -> str:
    """A Markdown table: the mean over seeds, the lowest and highest seed, and the interval of the difference to the
    first strategy, which draws conversations and seeds anew."""
    groups = {"untuned": [counts(output / "untuned")]}
    for strategy in strategies:
        folders = [output / f"{strategy.replace('+', '_')}-seed{seed}" / "eval" for seed in range(seeds)]
        groups[strategy] = [counts(folder) for folder in folders]
    first = groups["untuned"][0]
    used = [name for name in first.whole if first.whole[name].any()]
    head = [f"| | turns | {' | '.join(groups)} |", "|---|--:" + "|--:" * len(groups) + "|"]
    rows = []
    for name in used:
        unit = 1.0 if name.startswith("loss") else 100.0
        form = ".3f" if unit == 1 else ".1f"
        cells = []
        drawn = {strategy: _drawn(groups[strategy], name, number) for number, strategy in enumerate(groups)}
        for strategy, evaluations in groups.items():
            values = [unit * one.part[name].sum() / one.whole[name].sum() for one in evaluations]
            low, high = unit * _interval(evaluations, name, drawn[strategy])
            cell = f"{np.mean(values):{form}} [{low:{form}}, {high:{form}}]"
            if strategy not in ("untuned", strategies[0]):
                difference = unit * (drawn[strategy] - drawn[strategies[0]])
                below, above = np.quantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
                cell += f" Δ {below:+{form}} to {above:+{form}}"
            cells.append(cell)
        rows.append(f"| {name} | {int(first.whole[name].sum()):,} | {' | '.join(cells)} |")
    note = (
        f"\n{len(first.whole[used[0]])} conversations, {seeds} seed{'s' if seeds > 1 else ''}; shares in per cent, "
        f"losses in nats a token. [95% interval], over conversations and seeds. Δ: 95% interval of the difference to "
        f"{strategies[0]}, paired by conversation.\n"
    )
    return "\n".join([*head, *rows, note])


def _interval(evaluations: list[Counts], name: str, drawn: np.ndarray) -> np.ndarray:
    """The 95% interval of a mean over seeds; where all is right, or all wrong, the exact bound over conversations."""
    part = np.sum([one.part[name] for one in evaluations], axis=0)
    whole = np.sum([one.whole[name] for one in evaluations], axis=0)
    found = estimate(part, whole)
    if name in METRICS and found.value in (0.0, 1.0) and found.low is not None and found.high is not None:
        return np.array([found.low, found.high])
    return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def _drawn(evaluations: list[Counts], name: str, number: int) -> np.ndarray:
    """float64[resamples]: the mean over seeds drawn anew, on conversations drawn anew, the same for every strategy."""
    part = np.stack([one.part[name] for one in evaluations])
    whole = np.stack([one.whole[name] for one in evaluations])
    found = ratios(part, whole, seed=0)
    picks = np.random.default_rng(number + 1).integers(0, len(found), size=found.T.shape)
    return np.take_along_axis(found.T, picks, axis=1).mean(axis=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--eval-data", action="append", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--strategy", action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("train", nargs="*", metavar="-- FLAGS")
    main(parser.parse_args())
