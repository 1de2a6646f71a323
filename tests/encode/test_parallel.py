"""Rows prepared by several processes are those that one prepares, in the same order, with the same errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentsft.config import DataConfig
from agentsft.encode import parallel
from agentsft.encode.load import load_preparer, load_rows
from agentsft.encode.parallel import compact, prepare_compact
from agentsft.errors import UserError
from agentsft.types import Example, TokenTree


def write_rows(path: Path, count: int) -> Path:
    """Rows of one to three answers, every seventh without any and every eleventh no JSON."""
    lines = []
    for k in range(count):
        messages = [{"role": "user", "content": f"Task {k % 5}"}]
        for n in range(k % 3 + 1 if k % 7 else 0):
            messages += [{"role": "assistant", "content": f"Answer {n} " * (k % 13 + 1)}]
            messages += [{"role": "user", "content": f"More, {k}"}]
        lines.append(json.dumps({"messages": messages, "id": f"r{k}"}) if k % 11 else "{")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def facts(example: Example) -> dict[str, Any]:
    """All of an example in a form that compares by value."""
    values = {field.name: getattr(example, field.name) for field in fields(Example)}
    if example.tree is not None:
        arrays = {field.name: getattr(example.tree, field.name) for field in fields(TokenTree)}
        values["tree"] = {name: (array.dtype, array.tolist()) for name, array in arrays.items()}
    return values


@pytest.fixture(scope="module")
def config(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    data = write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 200)
    return DataConfig(model=str(smollm2), data=[str(data)], max_length=120)


def test_two_processes_prepare_what_one_does(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    preparer = load_preparer(config)
    whole = [facts(compact(example)) for example in preparer.prepare(load_rows(config))]
    assert {bool(one["refusal"]) for one in whole} == {bool(one["lost"]) for one in whole} == {True, False}
    monkeypatch.setattr(parallel, "_ROWS", 20)
    here = []
    real = parallel._done_here
    monkeypatch.setattr(parallel, "_done_here", lambda *batch: here.append(batch) or real(*batch))
    several = DataConfig(**{**vars(config), "num_proc": 2})
    assert [facts(example) for example in prepare_compact(several, preparer)] == whole
    assert 0 < len(here) < 10  # both processes had a part in it


def test_other_processes_start_only_when_the_work_takes_long(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparer = load_preparer(config)
    monkeypatch.setattr(parallel, "_ROWS", 50)
    monkeypatch.setattr(parallel, "default_processes", lambda: 3)
    left = []
    monkeypatch.setattr(parallel, "_prepare_with", lambda n, c, p, batches: iter(left.extend([n, *batches]) or []))
    assert len(list(prepare_compact(config, preparer))) == 200
    assert left == []
    ticks = count(0.0, 0.1)
    monkeypatch.setattr(parallel, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    alone = [example.index for example in prepare_compact(config, preparer)]
    assert left[0] == 2
    assert 0 < len(alone) < 200
    assert alone + [row.index for batch in left[1:] for row in batch] == list(range(200))


def test_an_error_in_another_process_is_raised_as_it_is_here(config: DataConfig) -> None:
    messages = []
    for processes in (1, 2):
        strict = DataConfig(**{**vars(config), "overflow": "error", "num_proc": processes})
        with pytest.raises(UserError, match="raise max_length") as caught:
            list(prepare_compact(strict, load_preparer(strict)))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_processes_end_when_nobody_takes_their_examples(config: DataConfig) -> None:
    import multiprocessing

    before = set(multiprocessing.active_children())
    examples = prepare_compact(DataConfig(**{**vars(config), "num_proc": 2}), load_preparer(config))
    assert next(examples).index == 0
    assert set(multiprocessing.active_children()) - before
    examples.close()
    assert set(multiprocessing.active_children()) == before


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    counts = []
    for ranks in ("1", "2", "6", "64"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        counts.append(parallel.default_processes())
    assert counts == [8, 6, 1, 1]


def test_a_script_without_a_main_guard_ends_with_a_line_that_says_so(config: DataConfig, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from agentsft.config import DataConfig\n"
        "from agentsft.encode.load import load_preparer\n"
        "from agentsft.encode.parallel import prepare_compact\n"
        f"config = DataConfig(model={config.model!r}, data={list(config.data)!r}, num_proc=2)\n"
        "list(prepare_compact(config, load_preparer(config)))\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "__main__" in done.stderr.splitlines()[-1]
