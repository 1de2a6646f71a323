"""How every command behaves in a shell: help, guesses, pipes, colours, narrow terminals, exit codes, paths."""

from __future__ import annotations

import ast
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agentsft.cli import display
from agentsft.cli.app import app, main
from agentsft.cli.guide import EXAMPLES, EXIT_CODES
from agentsft.config import TrainConfig
from agentsft.data.paths import find_sources
from agentsft.elsewhere import _NAMES, called_here
from agentsft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DATA = str(ROOT / "examples" / "data" / "react_eval.jsonl")
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agentsft", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def in_a_terminal(columns: int, *arguments: object, **environment: str) -> str:
    """What a command writes to a terminal of so many columns."""
    main, side = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    command = [sys.executable, "-m", "agentsft", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=side, stderr=side, stdin=side, env=env)
    os.close(side)
    parts = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and select.select([main], [], [], 60)[0]:
        try:
            parts.append(os.read(main, 65536))
        except OSError:  # how Linux says that the other side is closed
            break
    process.wait(timeout=60)
    os.close(main)
    return b"".join(parts).decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_in_80_and_in_40_columns(command: str) -> None:
    assert command in EXAMPLES, "agentsft/cli/guide.py: give this command an example and a panel"
    for columns in (40, 80):
        done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": str(columns)})
        assert done.exit_code == 0
        assert "Examples" in done.stdout
        assert "--quiet" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= columns
        flags = {name for param in COMMANDS[command].params for name in param.opts if name.startswith("--")}
        assert flags <= {f"--{name}" for name in re.findall(r"--(?:\[no-\])?([a-z0-9-]+)", done.stdout)}


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_parses_up_to_its_end(line: str) -> None:
    words = shlex.split(line.replace("accelerate launch -m ", ""))
    command = COMMANDS[words[1]]
    context = command.make_context(words[1], words[2:])
    assert context.params is not None


def test_general_flags_stand_before_and_behind_the_command() -> None:
    for arguments in (["--verbose", "strategies"], ["strategies", "--verbose"], ["strategies", "-v"]):
        code, out, err = run(*arguments)
        assert (code, "react" in out) == (0, True)
        assert "agentsft: " in err
    assert run("strategies")[2] == ""
    assert "Traceback" in run("train", "gone.yaml", "--debug")[2]


def test_quiet_training_says_nothing_but_errors(
    tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.train.tiny import SHAPE

    LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 49152})).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(tmp_path / "model")
    capfd.readouterr()
    for name, value in (("level", display.NORMAL), ("_mute", False)):
        monkeypatch.setattr(display, name, value)  # and undo what the flag sets
    arguments = ["train", "-q", "-m", tmp_path / "model", "-d", DATA, "-o", tmp_path / "run", "--max-steps", 1]
    sys_argv = ["agentsft", *map(str, arguments), "--batch-size", "1", "--no-cache"]
    monkeypatch.setattr(sys, "argv", sys_argv)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.setattr(sys, "argv", [*sys_argv, "--data", "gone.jsonl"])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("agentsft: gone.jsonl")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prevew"], "'preview'"),
        (["train", "--learning-rte", "1"], '"--learning-rate"'),
        (["train", "--per-device-train-batch-size", "1"], "micro_batch_tokens"),
        (["train", "--per_device_train_batch_size", "1"], "micro_batch_tokens"),
        (["check", "rows.jsonl", "--data-format", "opnai"], '"openai"'),
        (["check", DATA, "--model", "MODEL", "--loss-scale", "reakt"], '"react"'),
        (["train", "RECIPE"], "cutoff_len'. Here this is max_length"),
    ],
)
def test_a_mistyped_or_foreign_name_gets_the_right_one(
    arguments: list[str], says: str, tmp_path: Path, smollm2: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("cutoff_len: 4096\n", encoding="utf-8")
    names = {"RECIPE": str(recipe), "MODEL": str(smollm2)}
    code, out, err = run(*(names.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_underscores_in_flags_are_hyphens_but_values_keep_theirs() -> None:
    parent = GROUP.make_context("agentsft", ["train"])
    flags = ["--loss_scale", "last_round", "--overflow", "drop_turns", "--no_mask_history"]
    context = COMMANDS["train"].make_context("train", flags, parent=parent)
    given = {name: getattr(value, "value", value) for name, value in context.params.items()}
    assert (given["loss_scale"], given["overflow"], given["mask_history"]) == ("last_round", "drop_turns", False)


def test_all_foreign_keys_of_a_recipe_are_said_at_once() -> None:
    from agentsft.config import build

    with pytest.raises(UserError) as wrong:
        build(TrainConfig, {"model_name_or_path": "m", "stage": "sft", "lerning_rate": 1, "zzzz": 2}, "theirs.yaml")
    said = str(wrong.value)
    for words in ("theirs.yaml: 4 unknown", "'model_name_or_path': here model", "nothing to set", '"learning_rate"'):
        assert words in said
    assert "\n" not in said
    with pytest.raises(UserError, match="and 12 more"):
        build(TrainConfig, {f"unknown_{number}": 1 for number in range(20)})


def test_every_foreign_name_leads_to_a_setting_and_none_hides_one() -> None:
    known = tuple(field.name for field in fields(TrainConfig))
    for name in _NAMES:
        if name not in known:
            assert called_here(name, known), name
    assert called_here("no_such_thing", known) == ""


@pytest.mark.parametrize("arguments", [["strategies"], ["--help"], ["preview", DATA, "-m", "MODEL", "-n", "16"]])
def test_a_closed_pipe_ends_a_command_quietly(arguments: list[str], smollm2: Path) -> None:
    process = start(*(str(smollm2) if argument == "MODEL" else argument for argument in arguments))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(timeout=120)
    assert err == ""
    assert process.returncode in (0, 141)


def test_a_pipe_gets_no_colour_and_no_progress(smollm2: Path) -> None:
    for arguments in (["check", DATA, "-m", smollm2], ["strategies"]):
        code, out, err = run(*arguments)
        assert code == 0
        assert out
        assert "\x1b" not in out + err
        assert err == ""


def test_no_color_leaves_a_terminal_without_colour_and_preview_writes_the_weights_out(smollm2: Path) -> None:
    preview = ["preview", DATA, "-m", smollm2, "-n", 1, "--loss-scale", "react"]
    assert re.search(r"\x1b\[[0-9;]*[34]8;", in_a_terminal(80, *preview))
    plain = in_a_terminal(80, *preview, NO_COLOR="1")
    assert not ESCAPE.findall(plain)
    assert "{2}" in plain


def test_a_terminal_of_40_columns_is_not_overrun(smollm2: Path) -> None:
    shown = [CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "40"}).stdout
             for arguments in (["strategies"], ["doctor"], ["check", DATA, "-m", smollm2])]  # fmt: skip
    shown.append(ESCAPE.sub("", in_a_terminal(40, "strategies")).replace("\r", "\n"))
    for text in shown:
        assert len(text.splitlines()) > 5
        assert [line for line in text.splitlines() if len(line) > 40] == []


def test_version_and_completion() -> None:
    from agentsft import __version__

    assert run("--version")[1] == run("-V")[1] == f"agentsft {__version__}\n"
    code, out, _ = run(_AGENTSFT_COMPLETE="complete_bash", COMP_WORDS="agentsft pre", COMP_CWORD="1")
    assert (code, out.split()) == (0, ["preview"])


def test_exit_codes_are_documented_and_shown() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert all(re.search(rf"\b{code}  ", shown) for code in EXIT_CODES)


def test_a_path_of_windows_is_a_path() -> None:
    for path in (r"C:\data\rows.jsonl", r"..\rows.jsonl", r"data\rows.parquet", r"C:\data", r"\\server\share\rows"):
        with pytest.raises(UserError, match="no such file"):
            find_sources([path])


def test_text_files_are_opened_as_utf8_and_what_only_posix_has_is_imported_late() -> None:
    late = {"fcntl", "resource", "termios", "pwd", "grp"}
    faults = []
    for path in sorted((ROOT / "agentsft").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            faults += [f"{path.name}: import {name}" for name in names & late]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _opens_text(node):
                faults.append(f"{path.name}: no encoding")
    # A lock holds nothing.
    assert set(faults) <= {"cache.py: no encoding"}


def _opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text without saying in which encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return not any(keyword.arg == "encoding" for keyword in call.keywords)
    if name != "open" or (isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "os"):
        return False
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    binary = any(re.fullmatch(r"[rwax+]*b[rwax+b]*", mode) for mode in modes)
    return not binary and not any(keyword.arg in ("encoding", None) for keyword in call.keywords)


@pytest.mark.parametrize("command", ["preview", "check"])
def test_who_computes_with_no_model_does_without_torch_and_prints_the_same(smollm2: Path, command: str) -> None:
    arguments = [command, DATA, "-m", str(smollm2), "--format", "json"]
    script = (
        "import sys\nfrom agentsft.__main__ import main\ntry:\n    main()\nfinally:\n"
        "    import datasets\n"  # which looks whether torch has been imported
        "    datasets.Dataset.from_list([{'a': 1}]).map(dict)\n"
        "    print(type(sys.modules.get('torch')), file=sys.stderr)"
    )
    for more, found in ([], type(None)), (["--trust-remote-code"], type(sys)):
        whole = [sys.executable, "-c", script, *map(str, arguments), *more]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)
        assert done.stderr.splitlines()[-1] == str(found), done.stderr
        assert "PyTorch" not in done.stderr
        assert done.stdout == CliRunner().invoke(app, list(map(str, arguments))).stdout
