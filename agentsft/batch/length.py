"""One length for all packs: compiled layers run fastest, and never compile anew, when every pack has the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentsft.batch.pack import Planner
from agentsft.types import TokenTree

CANDIDATES = 24

PASS = 512
"""What a pass costs beside its tokens, in tokens: weights are read, cast to bfloat16, and gradients added to.

14 bytes a parameter at 3 TB/s, against 6 operations a parameter and token at 600 TFLOP/s, on an H100.
"""


def best_length(planner: Planner, steps: Sequence[Sequence[TokenTree]], largest: int, block: int) -> int:
    """The pack length, a multiple of `block`, with which `steps` cost least, padding and passes included.

    It is at most the planner's fill (rounded up) and at least `largest`, the longest tree, where that fits a pack.
    """
    whole = _rounded(planner.fill, block)
    low = min(_rounded(largest, block), whole)
    lengths = {whole, *(_rounded(low + (whole - low) * k // CANDIDATES, block) for k in range(CANDIDATES))}

    def cost(length: int) -> tuple[int, int]:
        packed = replace(planner, fill=length)
        passes = sum(len(packed.plan(trees).ranks[0]) for trees in steps)
        return passes * (length + PASS), -length

    return min(lengths, key=cost)


def _rounded(tokens: int, block: int) -> int:
    return -(-max(tokens, 1) // block) * block
