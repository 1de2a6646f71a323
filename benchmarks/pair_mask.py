"""The mask of trees as any other mask that FlashAttention-4 is given: asked pair by pair. Needs that library."""

# No `from __future__ import annotations`: CuTe reads the signature.
from typing import Any

import cutlass.cute as cute

from agentsft.train.flash_mask import visible


@cute.jit
def by_pairs(batch: Any, head: Any, q: Any, k: Any, seqlen: Any, tensors: Any) -> Any:
    return visible(batch, head, q, k, seqlen, tensors)
