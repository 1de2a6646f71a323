from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _one_cpu_thread(_two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, also where there is a GPU; tiny matrices are slower on several threads."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@pytest.fixture
def cuda(_one_cpu_thread: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets Accelerate take the GPU; skips where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch._dynamo.reset()
