from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as partitioner
import torch._inductor.config as inductor
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


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    """Puts back what compiling layers sets in torch, and forgets what was compiled."""
    banned = {name: value for name, value in partitioner.get_config_copy().items() if name.startswith("ban_recompute_")}
    custom, cutting = inductor.joint_custom_post_pass, dynamo.optimize_ddp
    yield
    inductor.joint_custom_post_pass, dynamo.optimize_ddp = custom, cutting
    for name, value in banned.items():
        setattr(partitioner, name, value)
    torch._dynamo.reset()
