"""What docs/security.md promises beyond single inputs: nobody else's code runs, and the page tells the truth."""

from __future__ import annotations

import ast
import contextlib
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest

import agentsft
from tests.assets import ROOT
from tests.hostile.command import run
from tests.hostile.rows import GOOD

SOURCES = sorted(Path(agentsft.__file__).parent.rglob("*.py"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    return path


@pytest.fixture
def model(tmp_path: Path, smollm2: Path) -> Path:
    """A model folder of one's own to spoil, without weights."""
    folder = tmp_path / "model"
    shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    return folder


def calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Every call in a file, as its dotted name and its keywords' source."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (ast.unparse(node.func), {word.arg or "**": ast.unparse(word.value) for word in node.keywords})
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_reads_pickles_unsafe_yaml_or_runs_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (marshal|shelve|dill|cloudpickle|joblib)\b", text, re.MULTILINE)
    for name, words in calls(path):
        # Processes of one run hand each other objects, as multiprocessing does; from files nothing is unpickled.
        assert name not in ("pickle.load", "pickle.Unpickler")
        assert name != "pickle.loads" or path.name == "parallel.py"
        assert name not in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "np.load"), name
        assert words.get("shell", "False") == "False"
        assert words.get("trust_remote_code", "False") in ("False", "config.trust_remote_code", "trust_remote_code")
        assert name != "torch.load" or words["weights_only"] == "True"


def test_code_in_a_model_folder_runs_only_when_asked(data: Path, model: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (model / "evil.py").write_text(
        f"from transformers import PreTrainedTokenizerFast\nopen({str(ran)!r}, 'w').close()\n"
        "class Evil(PreTrainedTokenizerFast):\n    pass\n",
        encoding="utf-8",
    )
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    outcome = run("check", data, "-m", model)
    assert outcome.code in (0, 2), outcome
    assert not ran.exists()
    outcome = run("check", data, "-m", model, "--trust-remote-code")
    assert ran.exists(), outcome


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_a_pickle_among_a_models_weights_is_not_run(data: Path, model: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"model.embed_tokens.weight": Evil(ran)}))
    with contextlib.suppress(Exception):
        assert run("train", "-m", model, "-d", data, "--output", tmp_path / "out", "--no-cache").code == 2
    assert not ran.exists()


def test_the_text_of_rows_never_stands_in_a_page_as_markup(data: Path, smollm2: Path) -> None:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>[link=http://x]y[/link]"
    data.write_bytes(GOOD.replace(b"It is 4.", script.encode()))
    page = data.with_suffix(".html")
    assert run("preview", data, "-m", smollm2, "--format", "html", "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "alert(1)" not in text
    assert "onerror" not in text
    assert "default-src 'none'" in text


def test_the_page_on_security_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, test in named:
        path = ROOT / file
        assert path.is_file(), file
        if test:
            names = {
                node.name
                for node in ast.parse(path.read_text(encoding="utf-8")).body
                if isinstance(node, ast.FunctionDef)
            }
            assert test in names, f"{file}::{test}"
