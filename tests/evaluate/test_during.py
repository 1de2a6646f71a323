"""Metrics between two steps of training are those of an evaluation, and leave the model as it was."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentsft.config import TrainConfig
from agentsft.evaluate.during import Measure
from agentsft.evaluate.run import evaluate
from agentsft.evaluate.settings import EvalConfig
from agentsft.train.layout import choose_layout
from agentsft.train.model import decoder_layers

DATA = Path(__file__).resolve().parents[2] / "examples" / "data" / "react_eval.jsonl"


def test_the_measure_is_the_evaluation_and_the_model_is_left_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    limit = {"limit": 3, "max_new_tokens": 5}
    wanted = evaluate(EvalConfig(model=str(tiny_folder), data=[str(DATA)], output=str(tmp_path), **limit))["metrics"]
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).train()
    choose_layout(model, 64, False, None, False)
    attention = model.config._attn_implementation
    layers = list(decoder_layers(model) or ())
    marker = layers[0]._compiled_call_impl = lambda *_, **__: 1 / 0  # a compiled layer must not be called
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config = TrainConfig(model=str(tiny_folder), eval_data=[str(DATA)], mask_history=True)
    found = Measure(config, tokenizer, 3, max_new_tokens=5)(model, Accelerator())
    assert found == {f"eval_{name}": one["value"] for name, one in wanted.items() if one["count"]}
    assert layers[0]._compiled_call_impl is marker
    assert model.training
    assert model.config._attn_implementation == attention
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_without_eval_data_the_rows_that_the_run_holds_out_are_taken(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config = TrainConfig(model=str(tiny_folder), data=[str(DATA)], eval_share=0.1)
    measure = Measure(config, tokenizer, 10, held_out={2, 5})
    sources = {turn.source for turn in measure._turns}
    rows = DATA.read_text(encoding="utf-8").splitlines()
    assert sources == {f"{DATA}:3", f"{DATA}:6"}
    messages = [message for number in (2, 5) for message in json.loads(rows[number])["messages"]]
    answers = sum(message["role"] == "assistant" for message in messages)
    assert len(measure._turns) == answers
