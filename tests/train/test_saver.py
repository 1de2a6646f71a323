"""A checkpoint written in the background is that of its step, whatever the run does meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.config import TrainConfig
from agentsft.train import saver as saver_module
from agentsft.train.checkpoint import fault
from agentsft.train.earlier import all_checkpoints
from agentsft.train.saver import Saver
from agentsft.train.saving import save_checkpoint
from tests.train.test_run import Recorder, config, examples, run, tiny_tokenizer, train, trees
from tests.train.tiny import saved_model, tiny_model

TUNERS = {
    "full": {},
    "lora": {"tuner": "lora", "lora_rank": 4, "lora_modules_to_save": ["lm_head"]},
    "dora": {"tuner": "dora", "lora_rank": 4},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model("llama", tmp_path_factory.mktemp("llama"))


def trained(settings: TrainConfig, recorder: Recorder) -> None:
    train(settings, tiny_tokenizer(), examples(trees()), examples(trees(2)), recorder)


class Late(Recorder):
    """Lets checkpoints be written only once `step` steps are done; keeps what was done when, in order."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.events, self.may_write = step, [], threading.Event()

    def on_step(self, row: dict[str, Any]) -> None:
        self.events.append(f"step {row['step']}")
        if row["step"] == self.step:
            self.may_write.set()

    def on_save(self, path: str) -> None:
        super().on_save(path)
        self.events.append(f"saved {Path(path).name}")

    def write(self, *arguments: Any) -> Path:
        assert self.may_write.wait(30)
        self.events.append("writing")
        return save_checkpoint(*arguments)


def same_tensors(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same_tensors(one[key], two[key]) for key in one)
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def assert_same_checkpoint(one: Path, two: Path) -> None:
    weights = [path.name for path in one.glob("*.safetensors")]
    assert weights
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in weights)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert same_tensors(*(torch.load(folder / "optimizer.pt", weights_only=True) for folder in (one, two)))


@pytest.mark.parametrize("tuner", TUNERS)
def test_steps_that_are_taken_while_a_checkpoint_is_written_are_not_in_it(
    llama: str, tmp_path: Path, tuner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(llama, tmp_path / "four", max_steps=4, save_steps=4, **TUNERS[tuner], lr_scheduler_type="constant"))
    late = Late(step=7)
    monkeypatch.setattr(saver_module, "save_checkpoint", late.write)
    settings = {"max_steps": 8, "save_steps": 4, **TUNERS[tuner], "lr_scheduler_type": "constant"}
    trained(config(llama, tmp_path / "late", **settings), late)
    assert late.events.index("writing") > late.events.index("step 7")
    assert late.events[-1] == "saved checkpoint-8"  # the end waits for it
    assert_same_checkpoint(tmp_path / "four" / "checkpoint-4", tmp_path / "late" / "checkpoint-4")


def test_the_next_save_waits_for_the_one_before(llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, most = [], []

    def slow(*arguments: Any) -> Path:
        writing.append(1)
        most.append(len(writing))
        time.sleep(0.1)
        path = save_checkpoint(*arguments)
        writing.pop()
        return path

    monkeypatch.setattr(saver_module, "save_checkpoint", slow)
    _, recorder = run(config(llama, tmp_path, max_steps=4, save_steps=1))
    assert most == [1, 1, 1, 1]
    assert [Path(path).name for path in recorder.saved] == [f"checkpoint-{n}" for n in (1, 2, 3, 4)]
    assert all(fault(path) is None for path in all_checkpoints(tmp_path))


def test_an_error_other_than_a_full_disk_ends_the_run(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Path:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(saver_module, "save_checkpoint", fail)
    for steps in (4, 1):  # in the midst of the run, and at its end
        with pytest.raises(ZeroDivisionError, match="a mistake"):
            run(config(llama, tmp_path / str(steps), max_steps=steps, save_steps=1))


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_an_error_of_the_run_waits_for_the_checkpoint_in_work(
    llama: str, tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Path:
        time.sleep(seconds)
        return save_checkpoint(*arguments)

    class Failing(Recorder):
        def on_step(self, row: dict[str, Any]) -> None:
            if row["step"] == 3:
                raise ArithmeticError

    recorder = Failing()
    monkeypatch.setattr(saver_module, "save_checkpoint", slow)
    with pytest.raises(ArithmeticError):
        trained(config(llama, tmp_path, max_steps=4, save_steps=2), recorder)
    assert fault(tmp_path / "checkpoint-2") is None
    assert [Path(path).name for path in recorder.saved] == ["checkpoint-2"]


def test_without_memory_for_copies_the_step_waits_and_says_so_once(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(llama, tmp_path / "copied", max_steps=4, save_steps=2))
    monkeypatch.setattr(saver_module, "host_memory_left", lambda: 1000)
    _, recorder = run(config(llama, tmp_path / "waiting", max_steps=4, save_steps=2))
    assert len(recorder.notes) == 1
    assert recorder.notes[0].startswith("Steps wait while checkpoints are written")
    for step in (2, 4):
        assert_same_checkpoint(*(tmp_path / name / f"checkpoint-{step}" for name in ("copied", "waiting")))


def test_later_saves_take_no_new_memory_and_tied_weights_are_copied_once(tmp_path: Path) -> None:
    model = tiny_model("llama")
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    with Saver(tmp_path, model, optimizer, None, Recorder()) as saver:
        places = []
        for step in (1, 2):
            saver.save({"step": step})
            places.append({name: copy.data_ptr() for name, copy in saver._copies.items()})
        assert places[0] == places[1]
        assert sum("weight" in name.split()[0] for name in places[0]) == sum(1 for _ in model.parameters())


DAMAGE = ["none", "cut", "lost", "no manifest"]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 30), st.sampled_from(DAMAGE)), max_size=5, unique_by=lambda pair: pair[0]),
    step=st.integers(1, 30),
    limit=st.integers(1, 4),
    full=st.booleans(),
)
def test_no_limit_removes_the_last_good_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]], step: int, limit: int, full: bool
) -> None:
    output, model = tmp_path_factory.mktemp("limit"), torch.nn.Linear(2, 2)
    model.save_pretrained = lambda path, **_: (Path(path) / "model.safetensors").write_bytes(b"weights")

    def save(step: int, limit: int | None) -> None:
        save_checkpoint(output, model, None, {"state": {}}, {"step": step}, limit)

    for number, damage in steps:
        save(number, None)
        file = output / f"checkpoint-{number}" / "model.safetensors"
        if damage == "cut":
            file.write_bytes(b"weight")
        elif damage == "lost":
            file.unlink()
        elif damage == "no manifest":
            file.with_name("manifest.json").unlink()
    good = {path.name for path in all_checkpoints(output) if fault(path) is None}
    before = {path.name for path in output.iterdir()}
    if full:
        model.save_pretrained = lambda path, **_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            save(step, limit)
        assert {path.name for path in output.iterdir()} == before
        assert {path.name for path in all_checkpoints(output) if fault(path) is None} == good
        return
    save(step, limit)
    new, left = f"checkpoint-{step}", {path.name for path in all_checkpoints(output)}
    assert fault(output / new) is None
    assert len(left) == min(limit, len(before | {new}))
    kept = {name for name in left - {new} if fault(output / name) is None}
    # As many of the old good ones as there is room for, the newest of them.
    newest = sorted(good - {new}, key=lambda name: int(name.split("-")[1]))[::-1][: limit - 1]
    assert kept == set(newest)
    assert not list(output.glob(".*"))
