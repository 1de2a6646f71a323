"""Weights kept or computed with in 16 bits: what training loses by each way beside float32 weights.

python -m benchmarks.weights_16 --model FOLDER --data FILE --held-out FILE [--steps 60] [--batch 8] [--layers 30]
    [--ways float32 chance]

All computation is float32 and the same; only what AdamW's step leaves in a weight differs: float32; float32, of which
the model sees the nearest bfloat16, as under autocast; the same, but weights are first placed at random among those
that round to the published ones; float32, of which it sees a bfloat16 rounded up or down by chance, so that the mean
is right; bfloat16 alone, the nearest, or by chance; bfloat16 beside a bfloat16 that keeps what was rounded away (Kahan
summation). The held-out loss is that of the weights, and of the weights when they are rounded to bfloat16 to be
served: the nearest, or by chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from agentsft.batch.collate import collate
from agentsft.batch.order import step_indices
from agentsft.batch.pack import Pack
from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer
from agentsft.train.attention import NAME, Attention
from agentsft.train.module import LossModule
from agentsft.train.rounding import place_weights
from agentsft.types import TokenTree

Keep = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def nearest(old: torch.Tensor, new: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    return new.bfloat16().float()


def by_chance(old: torch.Tensor, new: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """Adds a random number of 16 bits below bfloat16's and cuts them off."""
    noise = torch.randint(0, 1 << 16, new.shape, dtype=torch.int32)
    return (new.view(torch.int32) + noise & -(1 << 16)).view(torch.float32)


def seen_nearest(old: torch.Tensor, new: torch.Tensor, rest: torch.Tensor, rounded: Keep = nearest) -> torch.Tensor:
    """`rest` is what earlier steps rounded away."""
    wanted = new - old + rest
    kept = rounded(old, old + wanted, rest)
    rest.copy_(wanted - (kept - old))
    return kept


def seen_placed(old: torch.Tensor, new: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    return seen_nearest(old, new, rest)


def seen_by_chance(old: torch.Tensor, new: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    return seen_nearest(old, new, rest, by_chance)


def kahan(old: torch.Tensor, new: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    kept = seen_nearest(old, new, rest)
    rest.copy_(rest.bfloat16())
    return kept


WAYS: dict[str, tuple[str, Keep | None]] = {
    "float32": ("float32", None),
    "autocast": ("float32, seen as the nearest bfloat16", seen_nearest),
    "autocast-placed": ("float32, placed at random, seen as the nearest bfloat16", seen_placed),
    "autocast-chance": ("float32, seen as bfloat16 by chance", seen_by_chance),
    "nearest": ("bfloat16, nearest", nearest),
    "chance": ("bfloat16, by chance", by_chance),
    "kahan": ("bfloat16 and what was rounded away", kahan),
}

MASTERS = (seen_nearest, seen_placed, seen_by_chance)
"""Where float32 weights are kept beside what the model sees."""


def trees_of(file: str, model: str) -> list[TokenTree]:
    config = DataConfig(model=model, data=[file])
    preparer = load_preparer(config, load_tokenizer(config))
    return [example.tree for example in preparer.prepare(load_rows(config)) if example.tree is not None]


def loss_of(module: LossModule, trees: list[TokenTree], backward: bool) -> float:
    """Mean loss of a trained token; with `backward`, its gradient is left in the parameters."""
    count, total = sum(int((tree.weight > 0).sum()) for tree in trees), 0.0
    for tree in trees:
        loss, _ = module(collate(Pack((tree,))))
        if backward:
            (loss / count).backward()
        total += float(loss.detach()) / count
    return total


def trained(given: argparse.Namespace, keep: Keep | None) -> list[float]:
    """Training loss over the last ten steps, how far the weights that the model saw moved in all, held-out losses."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(
        given.model, dtype=torch.float32, attn_implementation=NAME, num_hidden_layers=given.layers
    )
    weights = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(weight.bfloat16())  # as published
    start = [weight.detach().clone() for weight in weights]
    rests = [torch.zeros_like(weight) for weight in weights]
    if keep is seen_placed:
        place_weights(model, seed=0, least=0)
        rests = [weight.detach() - published for weight, published in zip(weights, start, strict=True)]
        with torch.no_grad():
            for weight, published in zip(weights, start, strict=True):
                weight.copy_(published)
    module = LossModule(model, Attention("sdpa", torch.device("cpu")))
    optimizer = torch.optim.AdamW(weights, lr=given.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    rows, held_out, losses = trees_of(given.data, given.model), trees_of(given.held_out, given.model), []
    for step in range(given.steps):
        batch = [rows[i] for i in step_indices(0, step, len(rows), given.batch)]
        losses.append(loss_of(module, batch, backward=True))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        before = [weight.detach().clone() for weight in weights] if keep else []
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for weight, old, rest in zip(weights, before, rests, strict=False):
                assert keep is not None
                weight.copy_(keep(old, weight, rest))
    moved = sum(float((weight.detach() - old).square().sum()) for weight, old in zip(weights, start, strict=True))
    found = [sum(losses[-10:]) / len(losses[-10:]), moved**0.5]
    with torch.no_grad():
        whole = [
            weight + rest if keep in MASTERS else weight.clone() for weight, rest in zip(weights, rests, strict=True)
        ]
        for rounded in (None, nearest, by_chance):
            for weight, value in zip(weights, whole, strict=True):
                weight.copy_(rounded(value, value, value) if rounded else value)
            found.append(loss_of(module, held_out, backward=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=30, help="of the model, the first ones")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args()
    assert Path(given.model).is_dir()
    print("| weights | training loss | moved by | held-out loss | nearest | by chance |\n|---|---|---|---|---|---|")
    for way in given.ways:
        name, keep = WAYS[way]
        print(f"| {name} |", *(f"{value:.4f} |" for value in trained(given, keep)), flush=True)


if __name__ == "__main__":
    main()
