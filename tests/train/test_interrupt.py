"""A run that is asked to end saves its step, one that is killed loses nothing: both go on as if undisturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from agentsft.cli import app, train
from agentsft.config import dump_recipe
from agentsft.train.checkpoint import fault
from agentsft.train.dataset import Dataset
from agentsft.train.interrupt import SAME_REQUEST
from tests.train.test_invariance import rows
from tests.train.test_run import Recorder, config, examples, tiny_tokenizer, trees
from tests.train.tiny import saved_model

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


def child(recipe: Path, arguments: list[str], seconds: float) -> None:
    """`agentsft train RECIPE` in a process of its own, with the conversations of these tests."""
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    train.load_preparer = lambda config: Tiny()
    train._prepare = lambda *arguments: Dataset(examples(trees()), examples(trees(2)))
    train._print_ledger = lambda *arguments: None
    train.make_reporter = lambda screen: Slow(seconds, recipe.with_name("notes"))
    sys.argv = ["agentsft", "train", str(recipe), *arguments]
    app.main()


def start(output: Path, *arguments: str, seconds: float = 0.0) -> BaseProcess:
    process = PROCESSES.Process(target=child, args=(output / "r.yaml", list(arguments), seconds), daemon=True)
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
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
