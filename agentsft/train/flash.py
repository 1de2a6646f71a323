"""Attention on token trees by FlashAttention-4's block-sparse kernels, for bfloat16 and float16 on Hopper and newer.

An optional extra. Inside a block that is visible in part the
kernels mask each pair (`agentsft.train.flash_mask`).
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from agentsft.batch.blocks import FLEX_BLOCK, HALF, OF_HALVES, OF_KEYS, OF_QUERIES, lists_of
from agentsft.batch.collate import MicroBatch

HEAD_DIM = 128
"""The largest head that the kernels are used for."""


def obstacle(device: torch.device, head_dim: int, dtype: torch.dtype) -> str:
    """Why the kernels cannot be used, or ''."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] not in (9, 10):
        return "its kernels are for GPUs of compute capability 9 and 10"
    if dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bfloat16 and float16 alone"
    if head_dim > HEAD_DIM or head_dim % 8:
        return f"its heads of {head_dim} are not of a size up to {HEAD_DIM} in steps of 8"
    try:
        _kernels()
    except ImportError as error:
        return f"flash-attn-4 cannot be imported ({' '.join(str(error).split())[:200]})"
    return ""


def backward_queries(device: torch.device, head_dim: int) -> int:
    """How many queries a block of the backward pass has: the smaller it is, the fewer are computed for nothing."""
    small = torch.cuda.get_device_capability(device)[0] == 9 and head_dim > 64
    return HALF if small else FLEX_BLOCK


def tree_places(batch: MicroBatch) -> torch.Tensor:
    """What the kernels know of each place of a pack of trees, int64[n]: its depth-first index and, 32 bits above, how
    many tokens its subtree has."""
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    return (batch.subtree_end - batch.dfs).to(torch.int64) << 32 | batch.dfs


def tree_lists(batch: MicroBatch, queries: int) -> tuple[torch.Tensor, ...]:
    """`tree_places`, then the lists of the forward pass, and of the backward pass with blocks of `queries`, 4 each."""
    assert batch.blocks is not None
    n, backward = batch.input_ids.shape[1], OF_KEYS if queries == FLEX_BLOCK else OF_HALVES
    return tree_places(batch), *lists_of(batch.blocks, n, OF_QUERIES), *lists_of(batch.blocks, n, backward)


def flash_tree_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lists: tuple[torch.Tensor, ...], scale: float
) -> torch.Tensor:
    """Attention of query, key, value [b, heads, n, d] where the mask of trees allows it: [b, n, heads, d],
    differentiable. `lists` are those of `tree_lists`."""
    heads_last = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out, _ = _attend(*heads_last, *lists, scale)
    return out


@torch.library.custom_op("agentsft::flash_tree_attention", mutates_args=())
def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    places: torch.Tensor,
    kv_count: torch.Tensor,
    kv_index: torch.Tensor,
    full_kv_count: torch.Tensor,
    full_kv_index: torch.Tensor,
    q_count: torch.Tensor,
    q_index: torch.Tensor,
    full_q_count: torch.Tensor,
    full_q_index: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    forward, _, blocks, mask_mod = _kernels()
    block = (FLEX_BLOCK, FLEX_BLOCK)
    out, lse, *_ = forward(
        *(_dense(tensor) for tensor in (q, k, v)),
        softmax_scale=scale,
        mask_mod=mask_mod,
        aux_tensors=[places],
        block_sparse_tensors=blocks(kv_count, kv_index, full_kv_count, full_kv_index, block_size=block),
        return_lse=True,
    )
    return out, lse


@_attend.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    b, n, heads, _d = q.shape
    return q.new_empty(q.shape), q.new_empty((b, heads, n), dtype=torch.float32)


@torch.library.custom_op("agentsft::flash_tree_attention_backward", mutates_args=())
def _attend_backward(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    places: torch.Tensor,
    q_count: torch.Tensor,
    q_index: torch.Tensor,
    full_q_count: torch.Tensor,
    full_q_index: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, backward, blocks, mask_mod = _kernels()
    q, k, v, d_out = (_dense(tensor) for tensor in (q, k, v, d_out))
    block = (q.shape[1] // q_index.shape[3], FLEX_BLOCK)
    d_q, d_k, d_v = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v))
    backward(
        q,
        k,
        v,
        out,
        d_out,
        lse,
        scale,
        dq=d_q,
        dk=d_k,
        dv=d_v,
        mask_mod=mask_mod,
        aux_tensors=[places],
        block_sparse_tensors=blocks(q_count, q_index, full_q_count, full_q_index, block_size=block),
    )
    return d_q, d_k, d_v


@_attend_backward.register_fake
def _(
    d_out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, places, *blocks, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, places, *blocks[4:])


def _backward(ctx: Any, d_out: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *_attend_backward(d_out, *ctx.saved_tensors, ctx.scale), *(None,) * 10


_attend.register_autograd(_backward, setup_context=_keep)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The kernels want the head's elements side by side, and rows that begin on 16 bytes."""
    return tensor if tensor.stride(-1) == 1 and tensor.stride(-2) % 8 == 0 else tensor.contiguous()


@functools.cache
def _kernels() -> tuple[Any, Any, Any, Any]:
    """The library's forward and backward pass and its lists of blocks, and our mask in its language."""
    find_cutlass()
    from flash_attn.cute import flash_bwd_sm90, flash_fwd_sm90
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch
    from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd

    from agentsft.train.flash_mask import TreeMask, visible

    flash_bwd_sm90.AttentionMask = flash_fwd_sm90.AttentionMask = TreeMask

    return _flash_attn_fwd, _flash_attn_bwd, BlockSparseTensorsTorch, visible


def find_cutlass() -> None:
    """CUTLASS's Python package lies in a folder that a .pth file names, which `pip install --target` does not heed."""
    try:
        importlib.import_module("cutlass")
    except ImportError:
        import nvidia_cutlass_dsl

        sys.path.append(str(Path(next(iter(nvidia_cutlass_dsl.__path__))) / "dsl_packages"))
