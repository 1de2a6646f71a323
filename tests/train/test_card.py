"""The model card says what was done, loads the model as it says, and replaces nobody's own words."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from agentsft.config import TrainConfig, build
from agentsft.report.read import read_run
from agentsft.train.card import is_own, signed, without_place, write_card, write_run_info
from agentsft.train.reporter import Summary
from tests.report.folders import run_folder, write_lines

SUMMARY = Summary(7, 2, 900, 400, 900, 20, 0, 4, 1.0, 2, "Some GPU", "bf16", "tree", "flex", True, "full", 10, 10)


def finished(folder: Path, **settings: Any) -> TrainConfig:
    data = folder.parent / "rows.jsonl"
    data.write_text("{}\n")
    run_folder(folder)
    write_run_info(folder, SUMMARY)
    lost = {"source": str(data) + ":1", "refused": True, "reason": "too_long", "detail": "secret words",
            "turns_lost": 2, "tokens_lost": 1234}  # fmt: skip
    write_lines(folder / "ledger.jsonl", [lost])
    known = {"model": "org/base", "data": [str(data)], "output": str(folder), "loss_scale": "react", **settings}
    return build(TrainConfig, known)


def written(config: TrainConfig) -> str:
    assert write_card(config, "d" * 64) == ""
    return (Path(config.output) / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_the_front_matter_and_an_unknown_license_is_absent(tmp_path: Path) -> None:
    text = written(finished(tmp_path / "run", eval_data=["org/held-out:test"]))
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "org/base"
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert {"agentsft", "sft"} <= set(data["tags"])
    assert data["datasets"] == ["org/held-out"]
    assert "license" not in data
    (tmp_path / "lora").mkdir()
    adapter = ModelCard(written(finished(tmp_path / "lora" / "run", tuner="lora"))).data.to_dict()
    assert (adapter["library_name"], adapter["base_model_relation"]) == ("peft", "adapter")


def test_a_model_of_this_machine_is_no_base_model_and_its_place_stays_unsaid(tmp_path: Path) -> None:
    model = tmp_path / "private" / "model"
    model.mkdir(parents=True)
    text = written(finished(tmp_path / "run", model=str(model), chat_template=str(model / "t.jinja")))
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert str(tmp_path) not in text
    assert "secret words" not in text
    assert "`model`" in text


def test_the_card_holds_fingerprint_strategy_losses_results_and_versions(tmp_path: Path) -> None:
    config = finished(tmp_path / "run")
    text = written(config)
    digest = hashlib.sha256(b"{}\n").hexdigest()
    for word in (
        "d" * 64,
        digest,
        "| too_long | 1 | 1 | 2 | 1,234 |",
        "`Action Input:` | 2, 2",
        "Some GPU",
        "2 processes",
    ):
        assert word in text
    assert "7 conversations trained, 2 held out; 400 of 900 tokens are targets" in text
    for version in read_run(tmp_path / "run").info["versions"].values():
        assert version in text
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(recipe) == {"model": "org/base", "data": ["rows.jsonl"], "loss_scale": "react"}
    assert "| held-out loss | 1.2000 |" in text


def test_a_readme_that_is_not_ours_or_was_changed_stays(tmp_path: Path) -> None:
    config = finished(tmp_path / "run")
    path = tmp_path / "run" / "README.md"
    path.write_text("mine\n")
    assert "stays" in write_card(config, "d")
    assert path.read_text() == "mine\n"
    path.unlink()
    first = written(config)
    assert written(config) == first
    path.write_text(first.replace("7 conversations", "7 fine conversations"))
    assert "stays" in write_card(config, "d")
    assert "7 fine conversations" in path.read_text()


@given(st.text(), st.text(min_size=1), st.integers(0, 10**6))
def test_any_change_of_a_signed_text_is_seen(text: str, more: str, place: int) -> None:
    whole = signed(text)
    assert is_own(whole)
    place %= len(text) + 1
    assert not is_own(whole[:place] + more + whole[place:])


def test_without_any_file_of_the_run_there_is_a_note_and_no_error(tmp_path: Path) -> None:
    config = TrainConfig(model="m", output=str(tmp_path / "gone"))
    assert "not written" in write_card(config, "d")


def test_hostile_names_stay_in_their_cells(tmp_path: Path) -> None:
    config = finished(tmp_path / "run")
    entry = {"reason": "a|b`\n# c", "refused": False, "source": "x", "turns_lost": 0, "tokens_lost": 0}
    write_lines(tmp_path / "run" / "ledger.jsonl", [entry])
    assert "| a\\|b' # c | 1 |" in written(config)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/home/me/m", "m"), ("~/m/", "m"), ("../x/m", "m"), ("C:\\x\\m", "m"), ("org/m", "org/m"), ("data/m", "data/m")],
)
def test_places_of_this_machine_are_cut_to_names(path: str, name: str) -> None:
    assert without_place(path) == name


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_the_lines_of_the_card_load_the_model_with_transformers_and_peft_alone(
    tmp_path: Path, tuner: str, smollm2_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(smollm2_tokenizer), num_key_value_heads=2, **shape))
    base = tmp_path / "base"
    model.save_pretrained(base)
    config = finished(tmp_path / "run", model=str(base), tuner=tuner)
    if tuner == "lora":
        (tmp_path / "run" / "config.json").unlink()
        model.name_or_path = str(base)
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
        model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "README.md").unlink(missing_ok=True)  # PEFT's own
    smollm2_tokenizer.save_pretrained(tmp_path / "run")
    code = re.search(r"```python\n(.*?)```", written(config), re.DOTALL)
    assert code
    assert "agentsft" not in code[1]
    lines = code[1].replace('folder = "run"', f"folder = {str(tmp_path / 'run')!r}").replace("=256", "=2")
    known: dict[str, Any] = {}
    exec(lines, known)  # noqa: S102
    assert known["answer"].shape[1] == known["prompt"]["input_ids"].shape[1] + 2
    assert capsys.readouterr().out


def test_run_info_tells_the_machine_and_versions(tmp_path: Path) -> None:
    write_run_info(tmp_path / "new", SUMMARY)
    info = json.loads((tmp_path / "new" / "run.json").read_text())
    assert (info["device"], info["world_size"], info["conversations"]) == ("Some GPU", 2, 7)
    assert {"agentsft", "python", "torch", "transformers"} <= info["versions"].keys()
