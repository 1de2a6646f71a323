"""The mask of token trees in CuTe, the language of FlashAttention-4's kernels. Needs that library."""

# No `from __future__ import annotations`: CuTe reads the signature.
from typing import Any

import cutlass.cute as cute
from cutlass import Int32
from flash_attn.cute import utils


@cute.jit
def visible(batch: Any, head: Any, q: Any, k: Any, seqlen: Any, places: Any) -> Any:
    """Whether token q sees token k: `agentsft.train.attention.visible` on places = (dfs, subtree_end)."""
    dfs, end = places[0], places[1]
    dfs_q = utils.scalar_to_ssa(dfs[utils.ssa_to_scalar(q)], Int32)
    dfs_k = utils.scalar_to_ssa(dfs[utils.ssa_to_scalar(k)], Int32)
    end_k = utils.scalar_to_ssa(end[utils.ssa_to_scalar(k)], Int32)
    return (dfs_k <= dfs_q) & (dfs_q < end_k)
