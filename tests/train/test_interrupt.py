"""A run that is asked to end saves its step, one that is killed loses nothing: both go on as if undisturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentsft.cli import app, train
from agentsft.recipe import dump_recipe
from agentsft.train import passes, saver, saving, setup
from agentsft.train import run as run_module
from agentsft.train.checkpoint import fault
from agentsft.train.dataset import Dataset
from agentsft.train.interrupt import SAME_REQUEST
from tests.train.test_invariance import rows
from tests.train.test_run import Recorder, config, examples, tiny_tokenizer, trees
from tests.train.tiny import saved_model, tiny_model

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.train.test_interrupt", "transformers.models.llama.modeling_llama"])

STEPS = 200


class Slow(Recorder):
    """Takes `seconds` after each step, and leaves its notes in a file."""

    def __init__(self, seconds: float, file: Path) -> None:
        super().__init__()
        self.seconds, self.file = seconds, file

    def on_step(self, row: dict[str, Any]) -> None:
        time.sleep(self.seconds)

    def on_note(self, text: str) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


class Tiny:
    tokenizer = tiny_tokenizer()


def child(recipe: Path, arguments: list[str], seconds: float, phase: str, held: float) -> None:
    """`agentsft train RECIPE` in a process of its own, with the conversations of these tests.

    What it says on stderr goes to the file said; a file named as `phase` is made when that is reached, and then
    `held` seconds pass.
    """
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.dup2(os.open(recipe.with_name("said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    train.load_preparer = lambda config: Tiny()
    if phase:
        module, name = PHASES[phase]
        hold(module, name, recipe.with_name(phase), held)
    train._prepare = lambda *arguments: Dataset(examples(trees()), examples(trees(2)))
    train._print_ledger = lambda *arguments: None
    train.make_reporter = lambda screen: Slow(seconds, recipe.with_name("notes"))
    sys.argv = ["agentsft", "train", str(recipe), *arguments]
    app.main()


PHASES = {
    "preparing": (train, "load_preparer"),
    "loading the model": (setup, "load_model"),
    "evaluating": (passes, "_forward"),
    "writing a checkpoint": (saver, "save_checkpoint"),
    "writing the model": (run_module, "save_model"),
}


def hold(module: Any, name: str, reached: Path, seconds: float) -> None:
    """Makes `module.name` leave the file `reached` and wait `seconds` before it does what it does."""
    original = getattr(module, name)

    def slow(*arguments: Any, **named: Any) -> Any:
        if reached.name != "evaluating" or not torch.is_grad_enabled():
            reached.touch()
            for _ in range(round(100 * seconds)):  # no single sleep, which would be resumed after a handled signal
                time.sleep(0.01)
        return original(*arguments, **named)

    setattr(module, name, slow)


def start(output: Path, *arguments: str, seconds: float = 0.0, phase: str = "", held: float = 1.0) -> BaseProcess:
    given = (output / "r.yaml", list(arguments), seconds, phase, held)
    process = PROCESSES.Process(target=child, args=given, daemon=True)
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def until(condition: Callable[[], object], process: BaseProcess) -> None:
    """Waits for `condition` as long as the process lives."""
    while process.is_alive() and not condition():
        time.sleep(0.0005)


def steps_done(output: Path) -> int:
    metrics = output / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes an output folder with the recipe r.yaml in it."""
    model = saved_model("llama", tmp_path_factory.mktemp("llama"))

    def make(**settings: Any) -> Path:
        output = tmp_path_factory.mktemp("run")
        recipe = config(model, output, **{"data": ["none"], "max_steps": STEPS, "learning_rate": 1e-3, **settings})
        (output / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        return output

    return make


@pytest.fixture(scope="module")
def whole(make: Callable[..., Path]) -> Path:
    """The output of an undisturbed run."""
    output = make(eval_steps=7)
    assert ended(start(output)) == 0
    return output


def assert_same(output: Path, whole: Path) -> None:
    assert [row["step"] for row in rows(output)] == list(range(1, STEPS + 1))
    assert rows(output) == rows(whole)
    assert rows(output, "evaluations") == rows(whole, "evaluations")
    assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_run_that_is_asked_to_end_saves_its_step_and_goes_on_bit_identically(
    make: Callable[..., Path], whole: Path
) -> None:
    output = make(eval_steps=7)
    for number, code, step in ((signal.SIGTERM, 143, 5), (signal.SIGINT, 130, 90)):
        process = start(output, "--resume", seconds=0.005)
        until(lambda step=step: steps_done(output) >= step, process)
        os.kill(process.pid, number)
        assert ended(process) == code
        done = steps_done(output)
        assert step <= done < STEPS
        assert fault(output / f"checkpoint-{done}") is None
        assert f"Stopped by {number.name} after step {done};" in (output / "notes").read_text()
    assert ended(start(output, "--resume")) == 0
    assert_same(output, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(make: Callable[..., Path], number: signal.Signals, code: int) -> None:
    output = make()
    process = start(output, seconds=60)
    until(lambda: steps_done(output), process)
    first = time.monotonic()
    while process.is_alive() and time.monotonic() < first + 50:
        os.kill(process.pid, number)
        process.join(0.2)
    assert SAME_REQUEST < time.monotonic() - first < 50
    assert ended(process) == code
    assert steps_done(output) == 1
    assert not list(output.glob("checkpoint-*"))


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_like_an_undisturbed_one(
    make: Callable[..., Path], whole: Path, kills: int
) -> None:
    output, moments, saving = make(eval_steps=7, save_steps=2, save_total_limit=2), random.Random(5), 0
    for kill in range(kills):
        process = start(output, "--resume")
        before = steps_done(output) + 2
        until(lambda before=before: steps_done(output) >= before, process)
        if kill % 2:
            until(lambda: list(output.glob(".checkpoint-*.tmp")), process)
        time.sleep(moments.uniform(0, 0.002 if kill % 2 else 0.03))
        process.kill()
        assert ended(process) == -signal.SIGKILL
        saving += bool(list(output.glob(".checkpoint-*.tmp")))
        assert all(fault(path) is None for path in output.glob("checkpoint-*"))
    assert saving >= kills // 6
    assert ended(start(output, "--resume")) == 0
    assert_same(output, whole)
    assert sorted(path.name for path in output.glob("*checkpoint*")) == [
        f"checkpoint-{STEPS - 2}",
        f"checkpoint-{STEPS}",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_outside_of_the_steps_ends_the_run_with_its_code_and_without_damage(
    make: Callable[..., Path], phase: str, number: signal.Signals, code: int
) -> None:
    output = make(max_steps=4, save_steps=2)
    process = start(output, phase=phase)
    until((output / phase).exists, process)
    asked = time.monotonic()
    os.kill(process.pid, number)
    assert ended(process) == code
    said, notes = (output / "said").read_text(), output / "notes"
    noted = notes.read_text() if notes.exists() else ""
    assert "Traceback" not in said
    if phase in ("preparing", "loading the model"):
        assert time.monotonic() - asked < 0.8
        assert said.splitlines()[-1].startswith(f"agentsft: stopped by {number.name}; --resume goes on")
        assert said.count(number.name) == 1
    else:
        assert noted.count(number.name) == 1
        assert number.name not in said
    if phase == "evaluating":
        assert f"Stopped by {number.name} before the first step." in noted
        assert steps_done(output) == 0
    assert all(fault(path) is None for path in output.glob("checkpoint-*"))
    if phase == "writing the model":
        assert "the run is complete" in noted
        assert AutoModelForCausalLM.from_pretrained(output)
    else:
        assert not (output / "config.json").exists()
    assert ended(start(output, "--resume")) == 0
    assert [row["step"] for row in rows(output)] == [1, 2, 3, 4]
    assert [row["step"] for row in rows(output, "evaluations")] == [0, 4]
    assert not list(output.glob(".*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("phase", ["writing a checkpoint", "writing the model"])
def test_a_second_signal_does_not_wait_for_what_is_written(
    make: Callable[..., Path], phase: str, number: signal.Signals, code: int
) -> None:
    output = make(max_steps=4, save_steps=4)
    process = start(output, phase=phase, held=60)
    until((output / phase).exists, process)
    os.kill(process.pid, number)
    time.sleep(SAME_REQUEST * 0.2)
    os.kill(process.pid, number)  # too soon to count
    time.sleep(SAME_REQUEST * 1.1)
    assert process.is_alive()
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == code
    assert f"stopped by {number.name}" in (output / "said").read_text()
    assert not (output / "config.json").exists()
    assert ended(start(output, "--resume")) == 0
    assert [row["step"] for row in rows(output)] == [1, 2, 3, 4]


def test_a_model_that_is_half_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, broken = tiny_model("llama", seed=0), tiny_model("llama", seed=1), 0
    for cut in range(100):
        output = tmp_path / str(cut)
        output.mkdir()
        saving.save_model(old, tiny_tokenizer(), output)
        calls = iter(range(1000))

        def killed(original: Any, cut: int = cut, calls: Any = calls) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                if next(calls) >= cut:
                    raise KeyboardInterrupt
                return original(*arguments, **named)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((os, "replace"), (Path, "unlink"), (saving, "sync"), (shutil, "rmtree")):
                patch.setattr(module, name, killed(getattr(module, name)))
            try:
                saving.save_model(new, tiny_tokenizer(), output)
            except KeyboardInterrupt:
                complete = False
            else:
                complete = True
        try:
            found = AutoModelForCausalLM.from_pretrained(output).state_dict()
        except (OSError, ValueError):
            broken += 1
            assert not (output / "config.json").exists()
        else:
            assert any(
                all(torch.equal(found[name], value) for name, value in model.state_dict().items())
                for model in ((new,) if complete else (old, new))
            )
            assert AutoTokenizer.from_pretrained(output).chat_template == tiny_tokenizer().chat_template
        if complete:
            break
        saving.save_model(new, tiny_tokenizer(), output)  # and the next attempt mends it
        assert torch.equal(
            AutoModelForCausalLM.from_pretrained(output).model.embed_tokens.weight, new.model.embed_tokens.weight
        )
        assert not list(output.glob(".*"))
    assert complete
    assert broken >= 2
