"""What a model's folder says of serving: where it stops, and how much it can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, LlamaConfig

from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer


@pytest.fixture
def base(smollm2_tokenizer: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    smollm2_tokenizer.save_pretrained(folder)
    LlamaConfig(max_position_embeddings=77).save_pretrained(folder)
    ids = smollm2_tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    GenerationConfig(eos_token_id=ids).save_pretrained(folder)
    return folder


def test_an_adapters_stop_tokens_and_limit_are_those_of_its_base(
    base: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    smollm2_tokenizer.save_pretrained(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}), encoding="utf-8")
    of_base, of_adapter = (load_preparer(DataConfig(model=str(folder))) for folder in (base, adapter))
    assert set(of_base.traits.stop_tokens) >= {"<|im_end|>", "<|im_start|>"}
    assert of_adapter.traits.stop_tokens == of_base.traits.stop_tokens
    assert of_adapter.max_length == of_base.max_length == 77
