"""One layer's attention on the packs of a step, by each kernel that there is: milliseconds, TFLOP/s, differences.

python -m benchmarks.attention --tokenizer FOLDER --data FOLDER [--works T S tau2] [--packs 2]

TFLOP/s count the pairs that the mask allows, 4 and 8 operations a pair and element of a head, forward and backward.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from agentsft.batch.blocks import FLEX_BLOCK, HALF
from agentsft.batch.collate import MicroBatch, collate
from agentsft.batch.pack import Pack, Planner
from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer
from agentsft.train import flash
from agentsft.train.attention import Attention
from agentsft.train.kernel import _compiled_flex
from benchmarks.workload import WORKS, steps_of

HEADS, KEY_HEADS, SIZE = 16, 8, 128
TOKENS = 16384
Pass = tuple[Callable[[], Any], Callable[[], Any]]


def packs_of(work: str, data: Path, model: Path) -> list[Pack]:
    """The packs of the first step, the largest first."""
    given = WORKS[work]
    config = DataConfig(model=str(model), data=[str(data / given.file)], loss_scale=given.loss_scale)
    preparer = load_preparer(config, load_tokenizer(config))
    trees = [example.tree for example in preparer.prepare(load_rows(config)) if example.tree is not None]
    [first] = steps_of(len(trees), given.batch, 1)
    packs = Planner(TOKENS, TOKENS, share=True).plan([trees[i] for i in first]).packs
    return sorted(packs, key=lambda pack: pack.tokens, reverse=True)


def pairs(batch: MicroBatch) -> int:
    """How many pairs the mask allows, those of padding included."""
    assert batch.subtree_end is not None
    assert batch.dfs is not None
    return int((batch.subtree_end - batch.dfs).sum())


def kernels(batch: MicroBatch, attention: Attention) -> Iterator[tuple[str, Pass, list[torch.Tensor]]]:
    """Name, forward and backward pass, and the tensors in which results lie after both: out, dq, dk, dv."""
    from benchmarks.pair_mask import by_pairs

    forward, backward, blocks, mask_mod = flash._kernels()
    device, n = batch.input_ids.device, batch.input_ids.shape[1]
    random = torch.Generator(device).manual_seed(0)
    q, k, v, d_out = (
        torch.randn(1, n, heads, SIZE, device=device, dtype=torch.bfloat16, generator=random)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    )
    for name, mod, queries in (
        ("FlashAttention-4", mask_mod, HALF),
        ("FlashAttention-4, its own masking", by_pairs, HALF),
        ("FlashAttention-4, backward blocks of 128", mask_mod, FLEX_BLOCK),
    ):
        places, *lists = flash.tree_lists(batch, queries)
        mask = {"mask_mod": mod, "aux_tensors": [places]}
        whole, part = blocks(*lists[:4], block_size=(128, 128)), blocks(*lists[4:], block_size=(queries, 128))
        results = [torch.empty_like(tensor) for tensor in (q, q, k, v)]
        lse = [torch.empty(0)]

        def by_flash(mask: Any = mask, whole: Any = whole, results: Any = results, lse: Any = lse) -> None:
            results[0], lse[0], *_ = forward(q, k, v, block_sparse_tensors=whole, return_lse=True, **mask)

        def back(mask: Any = mask, part: Any = part, results: Any = results, lse: Any = lse) -> None:
            gradients = dict(zip(("dq", "dk", "dv"), results[1:], strict=True))
            backward(q, k, v, results[0], d_out, lse[0], block_sparse_tensors=part, **gradients, **mask)

        yield name, (by_flash, back), results
    leaves = [tensor.transpose(1, 2).detach().requires_grad_() for tensor in (q, k, v)]
    results = [torch.empty(0)] * 4
    block_mask = attention.arguments(batch)["attention_mask"]

    torch._functorch.config.donated_buffer = False  # the backward pass is run more than once

    def by_triton() -> None:
        for tensor in leaves:
            torch._dynamo.mark_static(tensor, [0, 1, 3])
        results[0] = _compiled_flex()(*leaves, block_mask, True).transpose(1, 2)

    def back_by_triton() -> None:
        gradients = torch.autograd.grad(results[0], leaves, d_out, retain_graph=True)
        results[1:] = [gradient.transpose(1, 2) for gradient in gradients]

    yield "flex attention (Triton)", (by_triton, back_by_triton), results


def milliseconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """Median of `repeats` runs behind five others."""
    times = []
    for _ in range(repeats + 5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[5:])[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer and chat template")
    parser.add_argument("--data", type=Path, required=True, help="folder with the works' files")
    parser.add_argument("--works", nargs="+", default=["T", "S", "tau2"], choices=list(WORKS))
    parser.add_argument("--packs", type=int, default=1, help="of each work's first step, the largest first")
    given = parser.parse_args()
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, {HEADS} query and {KEY_HEADS} key heads of {SIZE}, bfloat16")
    print("| pack | kernel | forward | backward | TFLOP/s | differs by |\n|---|---|---|---|---|---|")
    attention = Attention("flex", device)
    attention.reserve(2 * TOKENS)
    for work in given.works:
        for pack in packs_of(work, given.data, given.tokenizer)[: given.packs]:
            batch = collate(pack, FLEX_BLOCK, arrange=True).to(device)
            count, first = pairs(batch), None
            name = f"{work}, {pack.tokens:,} tokens, {count / 1e6:.0f} million pairs"
            for kernel, (ahead, back), results in kernels(batch, attention):
                ahead()
                back()
                there, again = milliseconds(ahead), milliseconds(back)
                found = [tensor.float() for tensor in results]
                first = first or found
                off = max(float((a - b).norm() / b.norm()) for a, b in zip(found, first, strict=True))
                rate = 12 * count * HEADS * SIZE / (there + again) / 1e9
                print(f"| {name} | {kernel} | {there:.2f} ms | {again:.2f} ms | {rate:.0f} | {off:.1e} |", flush=True)
                name = ""


if __name__ == "__main__":
    main()
