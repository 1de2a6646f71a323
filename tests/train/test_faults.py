"""Bad numbers and files that cannot be written cost what they must, and are said."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentsft.errors import UserError
from agentsft.train import metrics
from agentsft.train.metrics import RowsFile
from agentsft.train.nonfinite import culprits
from agentsft.types import TokenTree
from tests.train.test_invariance import rows
from tests.train.test_run import config, run, trees
from tests.train.tiny import step_run, tiny_model


def broken_for(tree: TokenTree, others: list[TokenTree], value: float, folder: Path) -> str:
    """A model that cannot compute `tree`, but all the `others`."""
    model = tiny_model("llama")
    token = next(int(t) for t in tree.input_ids[tree.source] if all(t not in other.input_ids for other in others))
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = value
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(tiny_model("llama", seed=1).lm_head.weight.detach().clone())
    model.save_pretrained(folder)
    return str(folder)


def ledger(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_row_that_made_a_step_bad_is_named_in_the_ledger_and_the_others_are_counted(
    tmp_path: Path, value: float
) -> None:
    data = trees(6)
    model = broken_for(data[3], data[:3] + data[4:], value, tmp_path / "model")
    settings = {"batch_size": 3, "num_train_epochs": 2, "learning_rate": 1e-4}
    first = {"row": 9, "source": "rows.jsonl:10", "refused": True, "reason": "no_assistant", "detail": "é"}
    out = tmp_path / "out"
    out.mkdir()
    (out / "ledger.jsonl").write_text(json.dumps(first, ensure_ascii=False) + "\n", encoding="utf-8")
    result, _ = run(config(model, out, **settings, save_steps=1), data=data)
    assert result.skipped_steps == 2
    bad = [row for row in rows(out) if "skipped" in row]
    assert [row["non_finite"] for row in bad] == [["rows.jsonl:4"]] * 2
    assert [len(row["sources"]) for row in bad] == [3, 3]
    kept, *entries = ledger(out)
    assert kept == first
    assert [(e["step"], e["source"]) for e in entries if e["reason"] == "non_finite"] == [
        (row["step"], "rows.jsonl:4") for row in bad
    ]
    for row in bad:
        lost = [entry for entry in entries if entry["step"] == row["step"]]
        assert sorted(entry["source"] for entry in lost) == sorted(row["sources"])
        assert sum(entry["tokens_lost"] for entry in lost) == row["num_items_in_batch"]
    assert all(entry["source"] == f"rows.jsonl:{entry['row'] + 1}" for entry in entries)
    # A resumed run has each entry once, also where its command line has written the ledger anew.
    undisturbed = ledger(out)
    for step in range(1, 4):
        cut = tmp_path / f"cut-{step}"
        shutil.copytree(out, cut)
        for later in range(step + 1, 5):
            shutil.rmtree(cut / f"checkpoint-{later}")
        if step == 2:
            (cut / "ledger.jsonl").write_text(json.dumps(first) + "\n", encoding="utf-8")
        run(config(model, cut, **settings, save_steps=1, resume=True), data=data)
        assert ledger(cut) == undisturbed


def test_bad_steps_before_a_resume_count_too(tmp_path: Path) -> None:
    data = trees(4)
    model = broken_for(data[3], data[:3], float("nan"), tmp_path / "model")
    settings = {"batch_size": 1, "learning_rate": 1e-4, "save_steps": 1, "num_train_epochs": 3, "max_bad_steps": 2}
    with pytest.raises(UserError, match=r"^max_bad_steps: 2 steps .* on rows\.jsonl:4;"):
        run(config(model, tmp_path / "whole", **settings), data=data)
    first = next(row["step"] for row in rows(tmp_path / "whole") if "skipped" in row)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in (tmp_path / "cut").glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > first:
            shutil.rmtree(path)
    with pytest.raises(UserError, match=r"^max_bad_steps: 2 steps .* on rows\.jsonl:4;"):
        run(config(model, tmp_path / "cut", **settings, resume=True), data=data)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_rows_that_are_bad_only_together_are_all_named() -> None:
    step = step_run(tiny_model("llama"), trees(3))
    step.sources = ["a", "b", "c"]
    assert culprits(step, 0) == [step.sources[i] for i in step._indices(0)]
    assert all(p.grad is None for p in step.module.parameters())


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=20),
    share=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_rows_are_whole_and_in_order_once_a_full_disk_has_room_again(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int], share: float
) -> None:
    path, notes, chance = tmp_path_factory.mktemp("rows") / "metrics.jsonl", [], random.Random(seed)
    write = os.write

    def full(file: int, content: bytes) -> int:
        if chance.random() < share:
            raise OSError(28, "No space left on device")
        return write(file, content[: chance.randint(1, len(content))])

    file = RowsFile(path, lambda row: True, notes.append)
    made = [{"step": number, "text": "é" * size} for number, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.os, "write", full)
        for row in made:
            file.write(row)
        content = path.read_bytes()
    file.close()
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == made
    assert path.read_bytes().startswith(content)
    assert bool(notes) or share == 0.0 or content == path.read_bytes()


def test_rows_that_never_find_room_are_counted_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    file = RowsFile(tmp_path / "metrics.jsonl", lambda row: True, notes.append)
    monkeypatch.setattr(metrics.os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for step in range(3):
        file.write({"step": step})
    file.close()
    assert len(notes) == 2
    assert "cannot be written ([Errno 28] No space left on device); its rows wait in memory" in notes[0]
    assert notes[1] == "metrics.jsonl lacks its last 3 rows."


def test_a_run_whose_metrics_find_no_room_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    run(config(str(tmp_path / "model"), tmp_path / "whole", max_steps=5))
    write, failures = os.write, iter([False, True, True, False])
    monkeypatch.setattr(
        metrics.os,
        "write",
        lambda file, content: write(file, content) if not next(failures, False) else write(99999, content),
    )
    _, recorder = run(config(str(tmp_path / "model"), tmp_path / "out", max_steps=5))
    assert len([note for note in recorder.notes if "jsonl cannot be written" in note]) == 1
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl", "evaluations.jsonl", "recipe.yaml"])
def test_files_that_cannot_be_written_at_the_start_are_said_before_the_first_step(tmp_path: Path, name: str) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \([^\n]*$"):
        run(config(str(tmp_path / "model"), tmp_path / "out", max_steps=1))
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_file_that_a_crash_left_with_rubbish_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n\0\0\0\n[1]\n{"step": "2"}\n{"step": 2}\n{"step": 3}\n{"st')
    file = RowsFile(path, metrics.until(2), print)
    assert file.kept == [{"step": 1}, {"step": 2}]
    file.write({"step": 3})
    file.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
