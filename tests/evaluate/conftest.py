from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _one_cpu_thread(_two_threads: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the CPU, also where there is a GPU; tiny matrices are slower on several threads."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def tiny_folder(smollm2_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers with SmolLM2's tokenizer and template; not to be written to."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("tiny")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape,
        vocab_size=len(smollm2_tokenizer),
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,
        eos_token_id=smollm2_tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder
