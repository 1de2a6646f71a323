from __future__ import annotations

import pytest
import torch

from agentsft.train.attention import visible
from agentsft.train.flash import find_cutlass, tree_places
from tests.train.test_kernel import batch_on


@pytest.mark.slow
def test_the_kernels_see_what_the_rule_says() -> None:
    find_cutlass()
    from tests.train.flash_on_host import seen_pairs

    batch = batch_on(torch.device("cpu"))
    assert batch.dfs is not None
    assert batch.subtree_end is not None
    expected = visible(batch.dfs[:, None], batch.dfs[None, :], batch.subtree_end[None, :])
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(seen_pairs(tree_places(batch)), expected)
