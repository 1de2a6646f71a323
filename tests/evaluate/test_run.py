"""Whole evaluations: files, resuming, adapters, and what the command line says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.errors import UserError
from agentsft.evaluate.generate import Generator
from agentsft.evaluate.run import evaluate
from agentsft.evaluate.settings import EvalConfig

DATA = Path(__file__).resolve().parents[2] / "examples" / "data" / "react_eval.jsonl"


def settings(model: Path, output: Path, **more: Any) -> EvalConfig:
    base = EvalConfig(model=str(model), data=[str(DATA)], output=str(output), limit=4, max_new_tokens=6)
    return replace(base, **{"batch_tokens": 900, **more})


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("answered", "loss_seconds", "output")}


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("whole")
    return output, evaluate(settings(tiny_folder, output))


def test_there_is_one_line_for_every_assistant_message(whole: tuple[Path, dict[str, Any]]) -> None:
    output, summary = whole
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    data = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()[:4]]
    wanted = {
        (number + 1, i): message["content"]
        for number, row in enumerate(data)
        for i, message in enumerate(row["messages"])
        if message["role"] == "assistant"
    }
    found = {(int(row["source"].rpartition(":")[2]), row["message"]): row["reference"] for row in rows}
    assert found == wanted
    assert summary["turns"] == len(rows) == len(wanted)
    assert summary["metrics"]["stops"]["count"] == len(rows)
    assert all(row["new_tokens"] <= 6 for row in rows)
    assert {k: v for k, v in summary.items() if k != "output"} == json.loads((output / "eval.json").read_text())


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_a_resumed_evaluation_ends_as_an_uninterrupted_one_and_answers_no_turn_twice(
    kept: int, whole: tuple[Path, dict[str, Any]], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
    (tmp_path / "eval.json").write_text(json.dumps({"made_by": whole[1]["made_by"]}), encoding="utf-8")
    asked: list[int] = []
    answers = Generator.answers
    monkeypatch.setattr(
        Generator, "answers", lambda self, prompts, new: asked.append(len(prompts)) or answers(self, prompts, new)
    )
    summary = evaluate(settings(tiny_folder, tmp_path, resume=True))
    assert (tmp_path / "results.jsonl").read_bytes() == (whole[0] / "results.jsonl").read_bytes()
    assert without_times(summary) == without_times(whole[1])
    assert summary["answered"]["turns"] == len(lines) - kept
    assert sum(asked) < len(lines) - kept + max(asked)  # a batch of which a part is missing is computed as a whole


def test_a_turn_has_one_line_however_often_its_file_is_named_or_its_line_stands_there(
    tiny_folder: Path, tmp_path: Path
) -> None:
    twice = settings(tiny_folder, tmp_path, data=[str(DATA), str(DATA)], limit=18)
    twice = replace(twice, max_new_tokens=1)
    summary = evaluate(twice)
    whole = (tmp_path / "results.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == len(set(lines)) < summary["turns"]
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:5] + lines[:2]))
    resumed = evaluate(replace(twice, resume=True))
    assert (tmp_path / "results.jsonl").read_bytes() == whole
    assert resumed["metrics"] == summary["metrics"]


def test_resuming_with_other_settings_is_refused_by_name(
    whole: tuple[Path, dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match="changed: max_new_tokens"):
        evaluate(settings(tiny_folder, tmp_path, resume=True, max_new_tokens=7))
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[len(weights) // 2 :] = bytes(len(weights) - len(weights) // 2)
    (other / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(UserError, match=r"changed: model, model\.safetensors"):
        evaluate(settings(other, tmp_path, resume=True))


def test_without_resume_an_evaluation_starts_afresh(
    whole: tuple[Path, dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    summary = evaluate(settings(tiny_folder, tmp_path, limit=1, generate=False))
    assert (tmp_path / "results.jsonl").read_bytes() == b""
    assert "metrics" not in summary
    assert summary["conversations"] == len((tmp_path / "conversations.jsonl").read_text().splitlines()) == 1


def test_an_adapter_is_evaluated_with_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), LoraConfig(target_modules=["q_proj"]))
    plain = evaluate(settings(tiny_folder, tmp_path / "plain", limit=2))
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for name, scale in (("idle", 0.0), ("active", 1.0)):
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.fill_(scale)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        found = evaluate(settings(tmp_path / name, tmp_path / f"{name}-out", limit=2))
        alone = evaluate(settings(tmp_path / name, tmp_path / f"{name}-loss", limit=2, generate=False))
        assert found["loss"] == alone["loss"]
        assert (found["loss"] == plain["loss"]) == (name == "idle")
        same = [
            [json.loads(line)["response"] for line in (tmp_path / folder / "results.jsonl").read_text().splitlines()]
            for folder in (f"{name}-out", "plain")
        ]
        assert (same[0] == same[1]) == (name == "idle")


def test_the_agent_format_that_training_left_is_used(tiny_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    (model / "agent_format.json").write_text('{"agent_format": "hermes"}', encoding="utf-8")
    notes: list[str] = []

    class Watcher:
        def on_stage(self, stage: str, total: int | None, done: int = 0) -> None: ...
        def on_advance(self, count: int) -> None: ...
        def on_note(self, text: str) -> None:
            notes.append(text)

    calls = DATA.with_name("tool_calls.jsonl")
    summary = evaluate(
        settings(model, tmp_path / "out", data=[str(calls)], limit=2, generate=False, max_length=8000), Watcher()
    )
    assert "tool_call" in summary["loss_by_label"]
    assert any("agent format hermes" in note for note in notes)


def command(*words: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["eval", *map(str, words)])
    return done.exit_code, str(done.exception or done.output)


def test_the_command_prints_one_json_object(tiny_folder: Path, tmp_path: Path) -> None:
    words = [tiny_folder, DATA, "--limit", 1, "--max-new-tokens", 2, "--output", tmp_path, "--format", "json"]
    done = CliRunner().invoke(app, ["eval", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["turns"] == len((tmp_path / "results.jsonl").read_text().splitlines())


def test_the_table_names_what_applies_and_what_does_not(tiny_folder: Path, tmp_path: Path) -> None:
    words = [tiny_folder, DATA, "--limit", 2, "--max-new-tokens", 2, "--output", tmp_path]
    done = CliRunner().invoke(app, ["eval", *map(str, words)], catch_exceptions=False)
    assert "react_action" in done.stdout
    assert "does not apply to any turn: right_tool, valid_arguments, exact_call" in done.stdout
    assert "95% interval" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", DATA], "model 'nowhere': no such folder"),
        (["{tiny}", "nowhere.jsonl"], "nowhere.jsonl"),
        (["{tiny}", DATA, "--limit", 0], "--limit is a whole number from 1 on, not 0"),
        (["{tiny}", DATA, "--max-new-tokens", 0], "--max-new-tokens is a whole number"),
        (["{tiny}", DATA, "--format", "xml"], "--format is text or json"),
        (["{tiny}", DATA, "--precision", "fp16"], "precision: fp16 needs a GPU"),
    ],
)
def test_a_mistake_is_one_line(words: list[Any], said: str, tiny_folder: Path, tmp_path: Path) -> None:
    given = [tiny_folder if word == "{tiny}" else word for word in words]
    code, text = command(*given, "--output", tmp_path / "out")
    assert code != 0
    assert said in text
    assert "\n" not in text.strip()


def test_a_damaged_adapter_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"adapter_config\.json: no base_model_name_or_path"):
        evaluate(settings(tmp_path, tmp_path / "out"))
