"""A run goes on from whole checkpoints alone, and one that cannot be written stops nothing."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from agentsft.errors import UserError
from agentsft.train.checkpoint import fault
from tests.train.test_invariance import rows
from tests.train.test_run import Recorder, config, examples, run, tiny_tokenizer, train, trees
from tests.train.tiny import saved_model, tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def done(llama: str, tmp_path: Path) -> Path:
    """An output folder after 6 steps, with checkpoints after 2, 4 and 6."""
    run(config(llama, tmp_path / "out", max_steps=6, save_steps=2))
    return tmp_path / "out"


@pytest.fixture(scope="module")
def whole(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        run(config(llama, output, max_steps=1, save_steps=1))
    return output / "checkpoint-1"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def same_model(one: Path, two: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_checkpoint_with_any_bit_changed_or_any_file_cut_or_lost_is_damaged(whole: Path, data: st.DataObject) -> None:
    assert fault(whole) is None
    file = data.draw(st.sampled_from(sorted(whole.iterdir())))
    before = file.read_bytes()
    try:
        match data.draw(st.sampled_from(["bit", "cut", "lost"])):
            case "bit":
                # A space of the manifest's layout may change freely: what it says is what counts.
                solid = [i for i, byte in enumerate(before) if byte not in b" \n"] if file.suffix == ".json" else None
                at = data.draw(st.sampled_from(solid) if solid else st.integers(0, len(before) - 1))
                file.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
            case "cut":
                file.write_bytes(before[: data.draw(st.integers(0, len(before) - 1))])
            case "lost":
                file.unlink()
        assert fault(whole)
    finally:
        file.write_bytes(before)


def test_resume_passes_over_damaged_checkpoints_and_says_so(llama: str, done: Path, tmp_path: Path) -> None:
    flip(done / "checkpoint-6" / "model.safetensors", 5000)
    (done / "checkpoint-4" / "optimizer.pt").unlink()
    shutil.copytree(done, tmp_path / "copy")
    settings = {"max_steps": 8, "save_steps": 2, "lr_scheduler_type": "constant"}
    _, recorder = run(config(llama, done, **settings, resume=True))
    assert recorder.summary is not None
    assert recorder.summary.start_step == 2
    assert [note.split("out/")[1] for note in recorder.notes[:2]] == [
        "checkpoint-6 is damaged (model.safetensors is not what was written) and is passed over.",
        "checkpoint-4 is damaged (optimizer.pt is missing) and is passed over.",
    ]
    assert all(fault(done / f"checkpoint-{n}") is None for n in (2, 4, 6, 8))
    assert [row["step"] for row in rows(done)] == list(range(1, 9))
    with pytest.raises(UserError, match=r"checkpoint-6 is damaged .*resume from another"):
        run(config(llama, tmp_path / "copy", resume_from_checkpoint=str(tmp_path / "copy" / "checkpoint-6")))


def test_without_a_whole_checkpoint_a_run_does_not_start_afresh_by_itself(llama: str, done: Path) -> None:
    for folder in done.glob("checkpoint-*"):
        truncate(folder / "manifest.json")
    before = (done / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"^resume: [^\n]*checkpoint-2 is damaged [^\n]*None is whole"):
        run(config(llama, done, max_steps=6, save_steps=2, resume=True))
    assert (done / "metrics.jsonl").read_bytes() == before


def test_the_limit_removes_damaged_checkpoints_first_and_leftovers_go(llama: str, done: Path) -> None:
    truncate(done / "checkpoint-6" / "model.safetensors")
    leftover = done / ".checkpoint-3.tmp"
    leftover.mkdir()
    run(config(llama, done, max_steps=5, save_steps=5, save_total_limit=2, resume=True))
    assert sorted(path.name for path in done.glob("*checkpoint*")) == ["checkpoint-4", "checkpoint-5"]
    assert not leftover.exists()
    assert all(fault(path) is None for path in done.glob("checkpoint-*"))


@pytest.fixture(autouse=True)
def _no_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullDisk(Recorder):
    """From step 3 to step 5 no file may grow beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def on_step(self, row: dict[str, Any]) -> None:
        for thread in threading.enumerate():
            if thread.name == "saver":  # the checkpoint in work is written under the limit of its own step
                thread.join()
        allowed = self.limit if 3 <= row["step"] < 6 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "manifest.json"])
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on(
    llama: str, done: Path, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {path.name: path.stat().st_size for path in (done / "checkpoint-2").iterdir()}
    recorder, out = FullDisk(sizes[file] - 1 if file != "manifest.json" else resource.RLIM_INFINITY), tmp_path / "full"
    if file == "manifest.json":  # smaller than what is written before it
        write_text, failures = Path.write_text, iter([False, True, False])

        def full(path: Path, *arguments: Any, **named: Any) -> int:
            if path.name == file and next(failures):
                raise OSError(28, "No space left on device")
            return write_text(path, *arguments, **named)

        monkeypatch.setattr(Path, "write_text", full)
    settings = config(llama, out, max_steps=6, save_steps=2, save_total_limit=1)
    kept = {}
    on_note = recorder.on_note
    monkeypatch.setattr(recorder, "on_note", lambda text: (on_note(text), kept.update(after_failure(out))))
    result = train(settings, tiny_tokenizer(), examples(trees()), examples(trees(2)), recorder)
    assert result.steps == 6
    [note] = recorder.notes
    assert note.startswith("checkpoint-4 could not be written (")
    assert kept == {"checkpoint-2": None}
    assert [Path(path).name for path in recorder.saved] == ["checkpoint-2", "checkpoint-6"]
    assert same_model(out, done)
    assert [row["step"] for row in rows(out)] == list(range(1, 7))


def after_failure(output: Path) -> dict[str, str | None]:
    """Each checkpoint folder, aside or not, and what is wrong with it."""
    return {path.name: fault(path) for path in output.iterdir() if "checkpoint" in path.name}


def test_the_manifest_lists_every_file(done: Path) -> None:
    folder = done / "checkpoint-4"
    listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {*listed, "manifest.json"} == {path.name for path in folder.iterdir()}
    assert all(file["bytes"] == (folder / name).stat().st_size for name, file in listed.items())


def test_max_bad_steps_stops_the_run_and_names_the_rows_of_the_last_bad_step(tmp_path: Path) -> None:
    model, marked = tiny_model("llama"), trees(4)
    token = next(int(t) for t in marked[3].input_ids if all(t not in tree.input_ids for tree in marked[:3]))
    with torch.no_grad():  # the model cannot compute row 4 alone
        model.model.embed_tokens.weight[token] = float("nan")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(tiny_model("llama", seed=1).lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path / "bad")
    bad = {"batch_size": 1, "num_train_epochs": 3, "learning_rate": 1e-4}
    result, _ = run(config(str(tmp_path / "bad"), tmp_path / "never", **bad), data=marked)
    assert result.skipped_steps == 3
    assert [row["sources"] for row in rows(tmp_path / "never") if "skipped" in row] == [["rows.jsonl:4"]] * 3
    with pytest.raises(UserError, match=r"^max_bad_steps: 2 steps .* on rows\.jsonl:4; [^\n]*$"):
        run(config(str(tmp_path / "bad"), tmp_path / "two", **bad, max_bad_steps=2), data=marked)
    assert rows(tmp_path / "two") == [
        row for row in rows(tmp_path / "never") if row["step"] <= len(rows(tmp_path / "two"))
    ]
    assert sum("skipped" in row for row in rows(tmp_path / "two")) == 2
