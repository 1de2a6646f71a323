"""`agentsft train` from data files to a folder that Transformers and PEFT load."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.errors import UserError

STEP_KEYS = {
    "step", "epoch", "loss", "learning_rate", "grad_norm", "num_items_in_batch", "tokens", "trained_tokens",
    "tokens_per_second", "seconds", "mfu", "loss_by_label",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, smollm2: Path, smollm2_tokenizer: Any) -> Path:
    """A tiny random Llama with SmolLM2's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = []
    for k in range(10):
        steps = [{"role": "user", "content": f"What is {k}+{k}?"}]
        for n in range(k % 3):
            steps += [
                {"role": "assistant", "content": f"Thought: add {n}\nAction: add\nAction Input: {k}"},
                {"role": "user", "content": f"Observation: {k + n}"},
            ]
        rows.append({"messages": [*steps, {"role": "assistant", "content": f"Final Answer: {2 * k}"}]})
    rows.insert(4, {"messages": [{"role": "user", "content": "no answer"}]})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(path: Path, **settings: Any) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def train(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def settings(model: Path, data: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model), "data": [str(data)], "output": str(output), "loss_scale": "react", "batch_size": 3,
        "micro_batch_tokens": 256, "learning_rate": "5e-3", "num_train_epochs": 2, "eval_share": 0.2, **more,
    }  # fmt: skip


def test_a_run_leaves_all_that_it_promises_and_lowers_the_loss(model: Path, data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    shown = train(recipe(tmp_path / "r.yaml", **settings(model, data, out, save_steps=3, save_total_limit=1)))
    steps = lines(out / "metrics.jsonl")
    assert [row["step"] for row in steps] == list(range(1, 7))
    assert all(row.keys() >= STEP_KEYS for row in steps)
    assert all(row["num_items_in_batch"] == row["trained_tokens"] > 0 for row in steps)
    assert {"action", "final_answer", "suffix"} <= set().union(*(row["loss_by_label"] for row in steps))
    evaluations = lines(out / "evaluations.jsonl")
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    (lost,) = lines(out / "ledger.jsonl")
    assert lost["source"] == f"{data}:5"
    assert (lost["reason"], lost["refused"]) == ("no_assistant", True)
    saved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    assert (saved["loss_scale"], saved["learning_rate"], saved["seed"]) == ("react", 5e-3, 42)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-6"]
    tuned = AutoModelForCausalLM.from_pretrained(out)
    untuned = AutoModelForCausalLM.from_pretrained(model)
    assert any(not torch.equal(a, b) for a, b in zip(tuned.parameters(), untuned.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(model).chat_template
    for words in ("no_assistant", "conversations", "saved by sharing", "step 6/6", "held-out loss"):
        assert words in shown


def test_a_resumed_run_repeats_the_uninterrupted_one(model: Path, data: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe(tmp_path / "r.yaml", **settings(model, data, whole, save_steps=2)))
    shutil.copytree(whole, cut)
    for later in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(cut / later)
    train(tmp_path / "r.yaml", "--output", cut, "--resume")
    timing = {"seconds", "tokens_per_second", "mfu", "memory_gib"}
    one, other = (
        [{k: v for k, v in row.items() if k not in timing} for row in lines(folder / "metrics.jsonl")]
        for folder in (whole, cut)
    )
    assert one == other
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


def test_an_adapter_loads_with_peft_alone(model: Path, data: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    out = tmp_path / "lora"
    train(recipe(tmp_path / "r.yaml", **settings(model, data, out, tuner="lora", lora_rank=4, max_steps=2)))
    assert not (out / "model.safetensors").exists()
    loaded = AutoPeftModelForCausalLM.from_pretrained(out)
    moved = [p.abs().sum() > 0 for name, p in loaded.named_parameters() if "lora_B" in name]
    assert moved
    assert all(moved)


def test_a_run_that_would_mix_with_an_earlier_one_is_refused_and_changes_nothing(
    model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "checkpoint-2").mkdir(parents=True)
    (out / "ledger.jsonl").write_text('{"row": 7}\n', encoding="utf-8")
    with pytest.raises(UserError, match="earlier run"):
        train(recipe(tmp_path / "r.yaml", **settings(model, data, out)))
    assert lines(out / "ledger.jsonl") == [{"row": 7}]


def test_the_budget_for_lost_rows_stops_before_the_first_step(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = recipe(tmp_path / "r.yaml", **settings(model, data, out, max_lost=0.05))
    with pytest.raises(UserError, match=r"9\.1%.*no_assistant 1.*max_lost"):
        train(path)
    assert lines(out / "ledger.jsonl")
    assert not (out / "metrics.jsonl").exists()


def test_the_words_of_an_agent_format_are_saved_beside_the_model(model: Path, tmp_path: Path) -> None:
    row = {
        "tools": [
            {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
        ],
        "messages": [
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        ],
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="--agent-format"):
        train("--model", model, "--data", path, "--output", tmp_path / "a", "--max-steps", 1)
    train("--model", model, "--data", path, "--output", tmp_path / "b", "--max-steps", 1, "--agent-format", "hermes")
    assert "tool_call" in (tmp_path / "b" / "agent_format.json").read_text(encoding="utf-8")


def test_two_processes_under_accelerate_launch_do_what_one_does(model: Path, data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    path = recipe(tmp_path / "r.yaml", **settings(model, data, one, max_steps=3))
    train(path)
    # `accelerate launch --cpu` starts several processes only under MPI; its launcher for GPUs does so on CPUs too.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "agentsft", "train", str(path), "--output", str(two)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 processes" in " ".join(done.stdout.split())
    for a, b in zip(lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl"), strict=True):
        assert math.isclose(a["loss"], b["loss"], rel_tol=1e-5)
        assert math.isclose(a["grad_norm"], b["grad_norm"], rel_tol=1e-4)
        assert a["num_items_in_batch"] == b["num_items_in_batch"]
    assert done.stdout.count("step 3/3") == 1


def test_held_out_rows_that_are_left_out_are_said_aloud(model: Path, data: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.yaml", **settings(model, data, tmp_path / "out", max_steps=1, eval_share=0.0))
    assert "held-out rows left out in part or whole: no_assistant 1" in train(path, "--eval-data", data)
