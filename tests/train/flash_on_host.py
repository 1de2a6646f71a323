"""The masking of FlashAttention-4's kernels on Hopper, done on the host for every thread of a block."""

# No `from __future__ import annotations`: CuTe reads the signatures.
from typing import Any

import cutlass
import cutlass.cute as cute
import torch
from cutlass import BFloat16, Float32, Int32, const_expr
from cutlass.cute.nvgpu import warpgroup
from cutlass.cute.runtime import from_dlpack
from cutlass.utils.hopper_helpers import make_trivial_tiled_mma
from flash_attn.cute.utils import AuxData

from agentsft.train.flash_mask import TreeMask, visible

KEYS = 128


def masked(places: torch.Tensor, queries: int, swapped: bool, heads: int, m_block: int, n_block: int) -> torch.Tensor:
    """Scores of 0 for rows of `queries` and `KEYS` keys, float32[queries, KEYS], masked as the kernels mask them.

    `swapped` is the backward pass's layout; `heads` of them are rows side by side for each query.
    """
    scores = torch.full((KEYS, queries) if swapped else (queries, KEYS), torch.nan)
    given = from_dlpack(scores), from_dlpack(places), Int32(m_block), Int32(n_block)
    cute.compile(_masked, *given, queries, swapped, heads)(*given)
    return scores.T if swapped else scores


@cute.jit
def _masked(
    scores: cute.Tensor,
    places: cute.Tensor,
    m_block: Int32,
    n_block: Int32,
    queries: cutlass.Constexpr[int],
    swapped: cutlass.Constexpr[bool],
    heads: cutlass.Constexpr[int],
) -> None:
    block = (KEYS, queries) if const_expr(swapped) else (queries, KEYS)
    rows = warpgroup.OperandMajorMode.K
    mma: Any = make_trivial_tiled_mma(
        BFloat16, BFloat16, rows, rows, Float32, atom_layout_mnk=(block[0] // 64, 1, 1), tiler_mn=(64, block[1])
    )
    mask = TreeMask(queries, KEYS, None, swap_AB=swapped, qhead_per_kvhead_packgqa=heads)
    for thread in range(block[0] // 64 * 128):
        part = mma.get_slice(thread)
        mine = cute.make_rmem_tensor(part.partition_shape_C(block), Float32)
        mine.fill(0.0)
        batch_and_head, lengths = (Int32(0), Int32(0)), (True, False, False)
        mask.apply_mask(mine, *batch_and_head, m_block, n_block, part, *lengths, visible, AuxData([places], None))
        at = part.partition_C(cute.make_identity_tensor(block))
        for i in cutlass.range_constexpr(cute.size(mine)):
            scores[at[i][0], at[i][1]] = mine[i]
