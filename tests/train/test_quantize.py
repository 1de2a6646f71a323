"""QLoRA computes what the dequantised weights compute, and an adapter upon 4 bits goes on, is saved and is merged."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train.adapter import device_for, merge_adapter
from agentsft.train.flops import Flops
from agentsft.train.model import load_model, parameter_counts
from agentsft.train.module import base_model
from agentsft.train.quantize import bytes_each, dequantized, is_part_of_weight, is_quantized
from tests.batch.trees import sample_step
from tests.train.reference import reference
from tests.train.test_run import config, rows, run
from tests.train.tiny import loss_and_gradient, saved_model, step_run, tiny_tokenizer

pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
QLORA: dict[str, Any] = {"tuner": "lora", "lora_rank": 4, "load_in_4bit": True}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model("qwen3", tmp_path_factory.mktemp("qwen3"))


def adapted(path: str, device: torch.device = CPU, precision: str = "fp32", **settings: Any) -> Any:
    """A model to train whose adapter is random, so that every gradient counts."""
    model = load_model(TrainConfig(model=path, **{**QLORA, **settings}), device, precision)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def plain(model: Any) -> Any:
    """`model` with the weights that its 4 bits stand for; changed in place."""
    for layer in model.modules():
        if is_quantized(getattr(layer, "base_layer", None)):
            held = nn.Module()
            held.weight = layer.base_layer.weight
            layer.base_layer = nn.Linear(layer.in_features, layer.out_features, bias=False)
            layer.base_layer.weight = nn.Parameter(_values(held.weight), requires_grad=False)
    return model


def _values(weight: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


def close(ours: tuple[float, torch.Tensor], theirs: tuple[float, torch.Tensor], tolerance: float) -> bool:
    assert float(theirs[1].norm()) > 1e-3
    return ours[0] == pytest.approx(theirs[0], rel=tolerance) and bool(
        (ours[1] - theirs[1]).norm() <= tolerance * theirs[1].norm()
    )


@pytest.mark.parametrize(
    "settings", [{}, {"bnb_4bit_quant_type": "fp4"}, {"bnb_4bit_use_double_quant": False}], ids=str
)
def test_loss_and_gradient_are_those_of_the_dequantised_weights(qwen3: str, settings: dict[str, Any]) -> None:
    expected = reference(plain(adapted(qwen3, **settings)), sample_step())
    for more in ({}, {"gradient_checkpointing": True}):
        model = adapted(qwen3, **settings, **more)
        assert is_quantized(model)
        run = step_run(model, sample_step(), fill=75)
        assert close(loss_and_gradient(run), expected, 1e-5), more
    full = reference(adapted(qwen3, load_in_4bit=False), sample_step())
    assert not close(full, expected, 1e-3)


def test_dora_upon_4_bits_is_dora_upon_the_dequantised_weights(qwen3: str) -> None:
    expected = reference(plain(adapted(qwen3, tuner="dora")), sample_step())
    assert close(loss_and_gradient(step_run(adapted(qwen3, tuner="dora"), sample_step())), expected, 1e-5)


def test_evaluation_leaves_the_weights_as_training_had_them(qwen3: str) -> None:
    model = adapted(qwen3)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    run = step_run(model, sample_step())
    before = loss_and_gradient(run)
    model.eval()
    with torch.no_grad():
        model(torch.arange(8)[None])
    model.train()
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    after = loss_and_gradient(run)
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])


def test_the_head_keeps_its_precision_and_all_parameters_are_counted_unpacked(qwen3: str) -> None:
    four, whole = adapted(qwen3), adapted(qwen3, load_in_4bit=False)
    assert type(base_model(four).get_output_embeddings()) is nn.Linear
    assert parameter_counts(four) == parameter_counts(whole)
    assert vars(Flops(four)) == vars(Flops(whole))
    linear = [m for m in base_model(four).get_decoder().modules() if is_quantized(m) and not list(m.children())]
    assert len(linear) == 14
    packed = [name for name in four.state_dict() if is_part_of_weight(name)]
    assert len(packed) == 14 * 5
    assert all(".base_layer.weight." in name for name in packed)


@pytest.mark.parametrize("double", [True, False])
def test_a_weight_takes_the_bytes_that_the_plan_counts(tmp_path: Path, double: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(512, 1024), quant_type="nf4", compress_statistics=double
    )
    scales = [state.absmax] + ([state.state2.absmax] if double else [])
    assert (packed.nbytes + sum(scale.nbytes for scale in scales)) / (512 * 1024) == bytes_each(double)


def test_layers_are_compiled_whole_and_once_for_all_of_them(qwen3: str) -> None:
    model, counter = adapted(qwen3), CompileCounterWithBackend("eager")
    run = step_run(model, sample_step(), fill=75)
    run.module.attention.mode, run.multiple = "mask", 256
    torch._dynamo.reset()
    for layer in base_model(model).get_decoder().layers:
        layer.compile(backend=counter, fullgraph=True)
    compiled = loss_and_gradient(run)
    torch._dynamo.reset()
    # The first layer's input needs no gradient, which makes a second graph.
    assert counter.frame_count == 2
    assert close(compiled, loss_and_gradient(step_run(adapted(qwen3), sample_step(), fill=75)), 1e-6)


def test_a_resumed_run_is_bit_identical_and_another_quantisation_is_refused(qwen3: str, tmp_path: Path) -> None:
    settings = {**QLORA, "lora_dropout": 0.2, "save_steps": 2, "eval_steps": 1, "max_steps": 4}
    run(config(qwen3, tmp_path / "whole", **settings))
    with pytest.raises(KeyboardInterrupt):
        run(config(qwen3, tmp_path / "cut", **settings), stop_at=3)
    for change in ({"load_in_4bit": False}, {"bnb_4bit_quant_type": "fp4"}):
        with pytest.raises(UserError, match=rf"changed: {next(iter(change))} \("):
            run(config(qwen3, tmp_path / "cut", **{**settings, **change}, resume=True))
    run(config(qwen3, tmp_path / "cut", **settings, resume=True))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert rows(tmp_path / "cut", "evaluations") == rows(tmp_path / "whole", "evaluations")
    assert rows(tmp_path / "cut")[-1]["loss"] < rows(tmp_path / "cut")[0]["loss"]
    names = {file.name for file in (tmp_path / "cut").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert "model.safetensors" not in names


def test_a_merged_adapter_has_the_logits_that_it_was_trained_with(qwen3: str, tmp_path: Path) -> None:
    model, ids = adapted(qwen3), torch.arange(3, 60)
    model.save_pretrained(str(tmp_path / "adapter"))
    with torch.no_grad():
        trained = model.eval()(ids[None]).logits
    settings = TrainConfig(model=qwen3, precision="fp32", **QLORA)
    found = {}
    for name, four in {"four": True, "plain": False}.items():
        run = replace(settings, load_in_4bit=four)
        arguments = (qwen3, tmp_path / name, tiny_tokenizer(), [ids.tolist()])
        exact, rounded, _ = merge_adapter(str(tmp_path / "adapter"), *arguments, run=run)
        assert exact.largest < 1e-4
        assert rounded.kl < 1e-6
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert not hasattr(merged.config, "quantization_config")
        with torch.no_grad():
            found[name] = merged(ids[None]).logits
    torch.testing.assert_close(found["four"], trained, rtol=1e-4, atol=1e-4)
    assert (found["plain"] - trained).abs().max() > 0.05


def test_merge_takes_the_base_as_the_run_had_it_unless_told_otherwise(qwen3: str, tmp_path: Path) -> None:
    run(config(qwen3, tmp_path / "run", **QLORA, max_steps=3, warmup_steps=0, learning_rate=1e-3))
    weights = {}
    for name, flags in {"four": [], "plain": ["--no-load-in-4bit"]}.items():
        words = ["merge", str(tmp_path / "run"), "--out", str(tmp_path / name), *flags]
        said = CliRunner().invoke(app, words, catch_exceptions=False)
        assert said.exit_code == 0, said.output
        assert ("nf4 weights of 4 bits" in said.output) == (not flags)
        weights[name] = load_file(tmp_path / name / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    original = load_file(Path(qwen3) / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    away = {name: float((weight - original).abs().max()) for name, weight in weights.items()}
    assert 0 < away["plain"] < 0.5 * away["four"]


def test_merging_is_left_to_the_cpu_where_the_gpu_is_too_small(qwen3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_needed = 4 * sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(qwen3).parameters())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, device in {bytes_needed: "cpu", 2 * bytes_needed: "cuda"}.items():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        assert device_for(qwen3, False).type == device


def test_what_cannot_be_is_one_line_that_says_what_to_do(qwen3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "set tuner: lora": {"load_in_4bit": True, "tuner": "full"},
        "lora_modules_to_save": {**QLORA, "lora_modules_to_save": ["q_proj"]},
    }
    for words, settings in cases.items():
        with pytest.raises(UserError, match=words):
            load_model(TrainConfig(model=qwen3, **settings), CPU, "fp32")
    monkeypatch.setattr("agentsft.config.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'agentsft[qlora]'")):
        load_model(TrainConfig(model=qwen3, **QLORA), CPU, "fp32")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=re.escape("pip install 'agentsft[qlora]'")):
        load_model(TrainConfig(model=qwen3, **QLORA), CPU, "fp32")


def test_a_model_that_is_stored_in_4_bits_is_no_base_for_full_fine_tuning(qwen3: str, tmp_path: Path) -> None:
    stored = base_model(adapted(qwen3)).__class__.from_pretrained(qwen3, **_four())
    stored.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="set tuner: lora"):
        load_model(TrainConfig(model=str(tmp_path)), CPU, "fp32")
    again = dequantized(stored, torch.float32)
    assert not is_quantized(again)
    assert close(
        reference(plain(adapted(qwen3)), sample_step()), reference(adapted(str(tmp_path)), sample_step()), 1e-5
    )


def _four() -> dict[str, Any]:
    from agentsft.train.quantize import loading_arguments

    return loading_arguments(TrainConfig(**QLORA), "fp32", CPU)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_on_a_gpu_too(qwen3: str, precision: str) -> None:
    device = torch.device("cuda")
    results = []
    for make in (lambda model: model, plain):
        model = make(adapted(qwen3, device, precision))
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            results.append(loss_and_gradient(step_run(model, sample_step(), attn_implementation="sdpa")))
    assert close(*results, 1e-4 if precision == "fp32" else 2e-2)
