"""The mask of token trees in CuTe, the language of FlashAttention-4's kernels. Needs that library."""

# No `from __future__ import annotations`: CuTe reads the signature.
from typing import Any

import cutlass.cute as cute
from cutlass import Boolean, Int32, Uint32
from flash_attn.cute import utils


@cute.jit
def visible(batch: Any, head: Any, q: Any, k: Any, seqlen: Any, tensors: Any) -> Any:
    """Whether token q sees token k: `agentsft.train.attention.visible` on `agentsft.train.flash.tree_places`.

    It does if it is that token or below it in the tree. That is one comparison, since an index before that token's
    makes a huge number of the difference.
    """
    places = tensors[0]
    index = Int32(places[utils.ssa_to_scalar(q)])
    place = places[utils.ssa_to_scalar(k)]
    seen = Uint32(index - Int32(place)) < Uint32(place >> 32)
    return utils.scalar_to_ssa(seen, Boolean)
