from __future__ import annotations

import numpy as np
import pytest
import torch

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.train.attention import visible
from agentsft.train.flash import find_cutlass, tree_places
from tests.train.test_kernel import batch_on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("queries", "swapped", "heads"),
    [(64, True, 1), (128, False, 1), (128, False, 2), (128, False, 4)],
    ids=["backward", "forward", "forward, two heads a key", "forward, four heads a key"],
)
def test_the_kernels_mask_blocks_as_the_rule_says(
    monkeypatch: pytest.MonkeyPatch, queries: int, swapped: bool, heads: int
) -> None:
    for name in ("CUTE_DSL_ARCH", "FLASH_ATTENTION_ARCH"):
        monkeypatch.setenv(name, "sm_90a")  # layouts of that GPU, which need not be here
    find_cutlass()
    from tests.train.flash_on_host import KEYS, masked

    batch = batch_on(torch.device("cpu"))
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    assert batch.input_ids.shape[1] % FLEX_BLOCK == 0
    seen_in_part = 0
    for m_block, n_block in np.ndindex(batch.input_ids.shape[1] * heads // queries, len(batch.dfs) // KEYS):
        q = (m_block * queries + torch.arange(queries)) // heads
        k = n_block * KEYS + torch.arange(KEYS)
        expected = visible(batch.dfs[q][:, None], batch.dfs[k][None, :], batch.subtree_end[k][None, :])
        if expected.all() or not expected.any():
            continue
        scores = masked(tree_places(batch), queries, swapped, heads, m_block, n_block)
        assert torch.equal(scores, torch.zeros(expected.shape).masked_fill(~expected, -torch.inf))
        seen_in_part += 1
        if seen_in_part == 6:
            return
    raise AssertionError("too few blocks are visible in part")
