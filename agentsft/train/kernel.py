"""Which kernels compute flex attention: the faster ones on this device, if they agree with the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from agentsft.batch.collate import MicroBatch
from agentsft.train.attention import Attention, whole_blocks
from agentsft.train.flash import backward_queries, flash_tree_attention, obstacle, tree_lists

TOLERANCE = 2e-2
"""How far outputs and gradients may lie apart, as a share of their norm; bfloat16 rounds to 4e-3."""


SAMPLE = 4
"""How many packs decide between two kernels."""


def choose_kernel(attention: Attention, config: Any, dtype: torch.dtype, batches: Sequence[MicroBatch]) -> str:
    """Sets `attention.flash` where FlashAttention-4 is exact and faster on `batches`; gives a note on what was found.

    `config` is the model's text configuration, `dtype` what attention computes in.
    """
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    reason = obstacle(batches[0].input_ids.device, head_dim, dtype)
    if reason:
        return f"Attention: flex attention by Triton, not by FlashAttention-4, since {reason}."
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    attention.backward_queries = backward_queries(batches[0].input_ids.device, head_dim)
    found = []
    try:
        for batch in batches:
            mask = attention.arguments(batch)["attention_mask"]
            found.append(_run(mask, tree_lists(batch, attention.backward_queries), heads, key_heads, head_dim, dtype))
    except Exception as error:  # whatever a library of pre-releases may raise
        cause = " ".join(str(error).split())[:200]
        return f"Attention: flex attention by Triton; comparing it with FlashAttention-4 failed ({cause})."
    wrong = [difference for *_, difference in found if not difference <= TOLERANCE]
    if wrong:
        return f"Attention: flex attention by Triton; FlashAttention-4 differs from it by {wrong[0]:.1e}."
    flash, triton = (sum(times) / len(found) for times in list(zip(*found, strict=True))[:2])
    attention.flash = flash < triton
    chosen = "FlashAttention-4" if attention.flash else "Triton"
    times = f"{flash:.1f} ms a layer and pack with FlashAttention-4, {triton:.1f} ms with Triton"
    return f"Attention: flex attention by {chosen} ({times})."


def _run(
    mask: BlockMask, lists: tuple[torch.Tensor, ...], heads: int, key_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Milliseconds of FlashAttention-4 and of Triton on random numbers, and how far their results lie apart."""
    device, n = lists[0].device, len(lists[0])
    generator = torch.Generator(device).manual_seed(0)

    def random(count: int) -> torch.Tensor:
        return torch.randn(1, n, count, head_dim, device=device, dtype=dtype, generator=generator)

    query, key, value, d_out = random(heads), random(key_heads), random(key_heads), random(heads)
    q, k, v = inputs = [tensor.transpose(1, 2).requires_grad_() for tensor in (query, key, value)]
    triton = _compiled_flex()
    repeats = heads // key_heads if heads & (heads - 1) else 1  # its kernels group powers of two alone

    def by_flash() -> torch.Tensor:
        return flash_tree_attention(q, k, v, lists, head_dim**-0.5)

    def by_triton() -> torch.Tensor:
        keys, values = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        for tensor in (q, keys, values):
            torch._dynamo.mark_static(tensor, [0, 1, 3])  # as they are in a layer
        return triton(q, keys, values, mask, repeats == 1).transpose(1, 2)

    (flash, ours), (other, theirs) = _timed(by_flash, inputs, d_out), _timed(by_triton, inputs, d_out)
    pairs = zip(ours, theirs, strict=True)
    return flash, other, max(float((a - b).float().norm() / b.float().norm()) for a, b in pairs)


@functools.cache
def _compiled_flex() -> Any:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask, grouped: bool) -> Any:
        whole_blocks(q)
        return flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped)

    return torch.compile(attend, dynamic=True)


def _timed(
    attend: Callable[[], torch.Tensor], inputs: list[torch.Tensor], d_out: torch.Tensor
) -> tuple[float, list[torch.Tensor]]:
    """Median milliseconds of forward and backward together, and their results."""
    times, results = [], []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        out = attend()
        results = [out.detach(), *torch.autograd.grad(out, inputs, d_out)]
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[2], results
