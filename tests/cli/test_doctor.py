"""`agentsft doctor`: what it finds is there, and what is missing is said and changes the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from agentsft.cli import doctor
from agentsft.cli.app import app
from agentsft.errors import UserError


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_it_tells_what_is_installed_and_what_a_run_uses() -> None:
    done = run("--format", "json")
    found = json.loads(done.stdout)
    assert done.exit_code == (1 if found["missing"] else 0)
    assert found["packages"]["transformers"]["installed"] == version("transformers")
    assert found["run"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found["run"]["precision"] in ("fp32", "bf16")
    assert {"prepared rows", "models of the hub", "temporary files"} == set(found["folders"])
    assert "gguf" in found["extras"]
    text = run()
    assert text.exit_code == done.exit_code
    for name, package in found["packages"].items():
        assert name in text.stdout
        assert package["installed"] is None or package["installed"] in text.stdout.replace("\n", "")
    assert all(line[:40] in text.stdout for line in found["slower"])


def test_a_missing_or_old_package_is_named_with_its_remedy_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = [
        "torch>=999",
        "no-such-package-at-all>=1",
        "typer>=0.1",
        'gone>=1; extra == "x"',
        'y; python_version < "3"',
    ]
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    required, extras = doctor.packages()
    assert {name: package["ok"] for name, package in required.items()} == {
        "torch": False, "no-such-package-at-all": False, "typer": True,
    }  # fmt: skip
    assert extras == {"x": {"gone": {"wanted": "gone>=1", "installed": None, "ok": False}}}
    done = run("--format", "json")
    assert done.exit_code == 1
    missing = json.loads(done.stdout)["missing"]
    assert len(missing) == 2
    assert "pip install 'torch>=999'" in missing[0]
    assert "missing: no-such-package-at-all" in run().stdout


def test_a_folder_that_cannot_be_written_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    monkeypatch.setenv("AGENTSFT_CACHE", str(file / "cache"))
    done = run("--format", "json")
    assert done.exit_code == 1
    assert any("AGENTSFT_CACHE" in line for line in json.loads(done.stdout)["missing"])


def test_a_broken_torch_is_said_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine()
    assert any(line.startswith("torch cannot be imported") for line in found["missing"])
    assert found["packages"]


def test_a_model_with_a_sliding_window_is_said_to_hinder_trees(tmp_path: Path) -> None:
    config = {"model_type": "mistral", "sliding_window": 64, "hidden_size": 64, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = json.loads(run("--model", tmp_path, "--format", "json").stdout)
    assert found["run"]["layout"] == "split"
    assert any("sliding" in line for line in found["slower"])
    assert found["model"]["head_dim"] == 16
    done = run("--model", tmp_path / "gone")
    assert isinstance(done.exception, UserError)


def test_on_a_gpu_it_says_which_kernels_and_why_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="A GPU", major=8, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**31))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    found = doctor.examine()
    assert found["devices"] == [
        {"device": "cuda:0", "name": "A GPU", "capability": "8.0", "memory_gib": 2.0, "free_gib": 1.0}
    ]
    assert (found["run"]["attention"], found["run"]["precision"]) == ("flex_attention", "bf16")
    assert any("FlashAttention-4 is not used" in line and "capability" in line for line in found["slower"])


def test_a_format_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentsft", "doctor", "--format", "xml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "text or json" in done.stderr
