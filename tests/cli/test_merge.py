"""`agentsft merge`: the merged model computes what base and adapter compute, or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.errors import UserError
from agentsft.train import adapter as adapters

IDS = torch.arange(40)[None] * 7


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, smollm2_tokenizer: Any) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=False,
        initializer_range=0.1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, std: float = 0.1, **settings: Any) -> Path:
    """An adapter whose weights are random, so that it changes every logit."""
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", **settings),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(str(folder))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["merge", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_a_merged_model_has_the_logits_of_base_and_adapter(base: Path, tmp_path: Path, settings: dict) -> None:
    folder = adapter(base, tmp_path / "adapter", **settings)
    plain = logits(AutoModelForCausalLM.from_pretrained(base))
    adapted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)))
    said = run(folder, "--out", tmp_path / "merged", "--dtype", "float32")
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert (adapted - plain).abs().max() > 0.1
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert "100.0% with the same likeliest token" in said
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_an_adapter_smaller_than_the_steps_of_bfloat16_is_not_lost(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    published = AutoModelForCausalLM.from_pretrained(base).bfloat16()
    published.save_pretrained(tmp_path / "base")
    folder = adapter(tmp_path / "base", tmp_path / "adapter", std=0.003)
    adapters.merge_adapter(str(folder), str(tmp_path / "base"), tmp_path / "out", tokenizer, [[1, 2, 3]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    whole = PeftModel.from_pretrained(plain, str(folder)).merge_and_unload().state_dict()
    saved = load_file(tmp_path / "out" / "model.safetensors")
    wanted, found, nearest = (
        torch.cat([(weights[name].float() - start[name]).flatten() for name in start])
        for weights in (whole, saved, {name: value.bfloat16() for name, value in whole.items()})
    )
    assert float(found @ wanted / wanted.square().sum()) == pytest.approx(1.0, abs=0.2)
    assert float(nearest @ wanted / wanted.square().sum()) < 0.5


def test_rows_of_the_run_are_compared_and_its_tokenizer_and_format_go_along(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "adapter")
    rows = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    rows.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(f"data: {rows}\nmodel: {base}\ntuner: lora\n", encoding="utf-8")
    (folder / "agent_format.json").write_text('{"agent_format": "react"}', encoding="utf-8")
    said = run(folder, "--out", tmp_path / "merged", "--dtype", "bfloat16")
    assert f"compared on 1 rows of {rows}" in said
    assert json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert (tmp_path / "merged" / "agent_format.json").read_text(encoding="utf-8") == '{"agent_format": "react"}'
    assert (tmp_path / "merged" / "chat_template.jinja").is_file()


def test_a_model_that_differs_is_not_written(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(base, tmp_path / "adapter")
    with monkeypatch.context() as patch:
        real = LoraModel.merge_and_unload

        def wrong(self: Any, **settings: Any) -> Any:
            model = real(self, **settings)
            model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1.0
            return model

        patch.setattr(LoraModel, "merge_and_unload", wrong, raising=False)
        with pytest.raises(UserError, match="nothing is written"):
            adapters.merge_adapter(str(folder), str(base), tmp_path / "out", None, [[1, 2, 3]])
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(adapters, "MOST_KL", -1.0)
    with pytest.raises(UserError, match="--dtype float32"):
        run(folder, "--out", tmp_path / "out")
    with pytest.raises(ValueError, match=r"config\.json"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_what_cannot_be_merged_is_said(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "adapter")
    for arguments, words in (
        ((base, "--out", tmp_path / "x"), "no adapter_model.safetensors"),
        ((folder, "--out", folder), "not empty"),
        ((folder, "--out", tmp_path / "x", "--dtype", "int4"), "--dtype is one of"),
        ((folder, "--out", tmp_path / "x", "--data", tmp_path / "none.jsonl"), "no such file"),
        ((folder, "--out", tmp_path / "x", "--model", tmp_path), "cannot be loaded"),
    ):
        with pytest.raises(UserError, match=words):
            run(*arguments)
    assert not (tmp_path / "x").exists()
