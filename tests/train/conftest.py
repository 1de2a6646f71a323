from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_two_threads: None) -> None:
    """Tiny matrices are slower on several threads."""
    torch.set_num_threads(1)
