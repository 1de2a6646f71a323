"""What FlashAttention-4's kernels ask of a pair, asked on the host."""

# No `from __future__ import annotations`: CuTe reads the signatures.
import cutlass.cute as cute
import torch
from cutlass import Int32, Uint8
from cutlass.cute.runtime import from_dlpack
from flash_attn.cute.utils import scalar_to_ssa, ssa_to_scalar

from agentsft.train.flash_mask import visible


def seen_pairs(places: torch.Tensor) -> torch.Tensor:
    """Whether the token of each row sees that of each column, bool[n, n], of `places`, int64[n]."""
    seen = torch.zeros(len(places), len(places), dtype=torch.uint8)
    given = from_dlpack(seen), from_dlpack(places), Int32(len(places))
    cute.compile(_ask, *given)(*given)
    return seen.bool()


@cute.jit
def _ask(seen: cute.Tensor, places: cute.Tensor, n: Int32) -> None:
    for q in range(n):
        for k in range(n):
            pair = scalar_to_ssa(q, Int32), scalar_to_ssa(k, Int32)
            seen[q, k] = Uint8(ssa_to_scalar(visible(None, None, *pair, None, [places])))
