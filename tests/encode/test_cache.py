"""Prepared rows come back from the cache as they were, and only while all that they depend on is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agentsft.config import DataConfig, TrainConfig
from agentsft.encode import cache
from agentsft.encode.cache import cache_folder, fingerprint, prepare_cached
from agentsft.encode.load import load_preparer
from agentsft.encode.parallel import prepare_compact
from agentsft.errors import UserError
from agentsft.train.dataset import load_dataset
from tests.encode.test_parallel import facts, write_rows

ROWS = 40


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTSFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


@pytest.fixture
def config(smollm2: Path, tmp_path: Path) -> TrainConfig:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    return TrainConfig(model=str(smollm2), data=[str(data)], max_length=120, num_proc=1)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each time that rows are really prepared."""
    calls: list[object] = []
    real = cache.prepare_compact
    monkeypatch.setattr(cache, "prepare_compact", lambda *args: calls.append(args) or real(*args))
    return calls


def changed(config: DataConfig, **values: Any) -> Any:
    return type(config)(**{**vars(config), **values})


def test_what_comes_back_is_what_was_prepared(config: TrainConfig, work: list[object], folder: Path) -> None:
    preparer = load_preparer(config)
    prepared = [facts(example) for example in prepare_compact(config, preparer)]
    advanced: list[int] = []
    for _ in range(2):
        assert [facts(one) for one in prepare_cached(config, preparer, advance=advanced.append)] == prepared
    assert len(work) == 1
    assert advanced == [1] * ROWS + [ROWS]
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".safetensors"]


def test_training_and_held_out_rows_and_ledger_are_the_same_with_and_without_cache(
    config: TrainConfig, work: list[object]
) -> None:
    config = changed(config, eval_share=0.3, eval_data=config.data)
    made = []
    for use in (False, True, True):
        dataset = load_dataset(changed(config, cache=use), load_preparer(config))
        made.append((list(map(facts, dataset.train)), list(map(facts, dataset.held_out)), dataset.ledger))
    assert made[0] == made[1] == made[2]
    assert len(work) == 1  # eval_data is the same file here
    tasks = [{one["task"] for one in part} for part in made[0][:2]]
    assert 0 < len(tasks[0]) < len(tasks[1]) == 5  # whole groups are held out, beside all of eval_data


CHANGES: dict[str, Callable[[TrainConfig, Path], TrainConfig]] = {
    "loss_scale": lambda config, _: changed(config, loss_scale="last_round"),
    "a strategy": lambda config, _: changed(config, loss_scale="default+react"),
    "mask_history": lambda config, _: changed(config, mask_history=True),
    "max_length": lambda config, _: changed(config, max_length=119),
    "overflow": lambda config, _: changed(config, overflow="skip"),
    "control_tokens": lambda config, _: changed(config, control_tokens="allow"),
    "reasoning": lambda config, _: changed(config, reasoning="inline"),
    "data_format": lambda config, _: changed(config, data_format="openai"),
    "agent_format": lambda config, _: changed(config, agent_format="hermes"),
    "template_kwargs": lambda config, _: changed(config, template_kwargs={"a": 1}),
    "order of template_kwargs": lambda config, _: changed(config, template_kwargs={"b": 2, "a": 1}),
    "stop_token": lambda config, _: changed(config, stop_token=["<|endoftext|>"]),
    "columns": lambda config, _: changed(config, columns={"messages": "messages"}),
    "columns of a path": lambda config, _: changed(config, columns={config.data[0]: {"role": "role"}}),
}


def test_every_setting_that_matters_changes_the_fingerprint(config: TrainConfig, tmp_path: Path) -> None:
    def key(one: TrainConfig) -> str | None:
        return fingerprint(one, load_preparer(one), one.data)

    keys = {"as it is": key(config)}
    keys |= {name: key(change(config, tmp_path)) for name, change in CHANGES.items()}
    template = tmp_path / "template.jinja"
    template.write_text(load_preparer(config).template.text + "{# a comment #}", encoding="utf-8")
    keys["chat_template"] = key(changed(config, chat_template=str(template)))
    keys["swapped kwargs"] = key(changed(config, template_kwargs={"a": 1, "b": 2}))
    data = Path(config.data[0])
    copy = data.with_name("copy.jsonl")
    copy.write_bytes(data.read_bytes())
    keys["another file"] = key(changed(config, data=[str(copy)]))
    keys["two files"] = key(changed(config, data=[str(data), str(copy)]))
    data.write_text(data.read_text(encoding="utf-8").replace("Task 4", "Task 5", 1), encoding="utf-8")
    keys["a changed file"] = key(config)
    assert None not in keys.values()
    assert len(set(keys.values())) == len(keys)
    assert key(changed(config, num_proc=3, cache=False, seed=1, batch_size=2)) == keys["a changed file"]


def test_the_tokenizer_the_code_and_a_template_s_day_change_the_fingerprint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preparer = load_preparer(config)
    first = fingerprint(config, preparer, config.data)
    monkeypatch.setattr(cache, "_code", lambda: "other code")
    assert fingerprint(config, preparer, config.data) != first
    monkeypatch.undo()
    assert fingerprint(config, preparer, config.data) == first
    preparer.tokenizer.add_tokens(["<new>"])
    assert fingerprint(config, preparer, config.data) != first

    template = tmp_path / "dated.jinja"
    template.write_text("{% set today = strftime_now('%d') %}" + preparer.template.text, encoding="utf-8")
    dated = changed(config, chat_template=str(template))
    preparer = load_preparer(dated)
    before = fingerprint(dated, preparer, config.data)

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date(2999, 1, 1)

    monkeypatch.setattr(cache, "date", Tomorrow)
    assert fingerprint(dated, preparer, config.data) != before


def test_a_hub_data_set_is_not_kept(config: TrainConfig) -> None:
    assert fingerprint(config, load_preparer(config), ["someone/rows"]) is None


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "another file"])
def test_a_damaged_file_is_prepared_anew(config: TrainConfig, work: list[object], folder: Path, damage: str) -> None:
    preparer = load_preparer(config)
    good = [facts(example) for example in prepare_cached(config, preparer)]
    (file,) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    file.write_bytes({"cut": data[:-1], "emptied": b"", "flipped": data, "another file": b"{}" * 99}[damage])
    assert [facts(example) for example in prepare_cached(config, preparer)] == good
    assert len(work) == 2
    assert [facts(example) for example in prepare_cached(config, preparer)] == good
    assert len(work) == 2


def test_rows_are_prepared_where_nothing_can_be_kept(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("AGENTSFT_CACHE", str(tmp_path / "file"))
    assert len(prepare_cached(config, load_preparer(config))) == ROWS
    assert "not kept" in caplog.text


def test_an_error_keeps_nothing_and_lets_go_of_the_lock(config: TrainConfig, folder: Path) -> None:
    strict = changed(config, overflow="error")
    for _ in range(2):
        with pytest.raises(UserError, match="raise max_length"):
            prepare_cached(strict, load_preparer(strict))
    assert not list(folder.glob("*.safetensors"))


def test_of_two_that_want_the_same_rows_at_once_one_prepares(
    config: TrainConfig, work: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    preparer = load_preparer(config)
    counted = cache.prepare_compact

    def slowly(*args: Any) -> Any:
        time.sleep(1)
        return counted(*args)

    monkeypatch.setattr(cache, "prepare_compact", slowly)
    with ThreadPoolExecutor(2) as pool:  # the system's lock is one of open files, be they of one process or two
        both = list(pool.map(lambda _: prepare_cached(config, preparer), range(2)))
    assert [len(examples) for examples in both] == [ROWS, ROWS]
    assert len(work) == 1


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AGENTSFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "agentsft" / "prepared"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "agentsft" / "prepared"
