"""A forward pass that is begun while the step before ends changes nothing of what is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agentsft.batch.pack import Pack
from agentsft.train import loop, passes, setup
from agentsft.types import TokenTree
from tests.train.test_run import config, run, trees
from tests.train.tiny import loss_and_gradient, saved_model, step_run, tiny_model

CHANGING = ("seconds", "tokens_per_second", "memory_gib")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model("qwen3", tmp_path_factory.mktemp("qwen3"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Pack]:
    """Passes are begun on a CPU too; the packs of those that were used."""
    used: list[Pack] = []
    one = passes._one

    def watched(run: Any, pack: Pack, *args: Any, **named: Any) -> str:
        if run.begun is not None and run.begun.pack is pack:
            used.append(pack)
        return one(run, pack, *args, **named)

    monkeypatch.setattr(setup, "overlaps", lambda *_: True)
    monkeypatch.setattr(passes, "_one", watched)
    return used


def rows(model: str, output: Path, data: list[TokenTree] | None = None, **settings: Any) -> list[dict[str, Any]]:
    """metrics.jsonl and evaluations.jsonl of three epochs of five conversations, two a step."""
    run(config(model, output, num_train_epochs=3, **settings), data=data)
    text = "".join((output / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("metrics", "evaluations"))
    return [{k: v for k, v in json.loads(line).items() if k not in CHANGING} for line in text.splitlines()]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 8), ({"eval_steps": 2}, 8 - 4), ({"micro_batch_tokens": 4096}, 8), ({"layout": "split"}, 8)],
    ids=["trees", "evaluated", "one-pass", "split"],
)
def test_steps_are_those_of_a_run_that_begins_nothing(
    qwen: str, tmp_path: Path, begun: list[Pack], monkeypatch: pytest.MonkeyPatch, settings: Any, expected: int
) -> None:
    ours = rows(qwen, tmp_path / "ours", **settings)
    assert len(begun) == expected
    monkeypatch.setattr(setup, "overlaps", lambda *_: False)
    assert ours == rows(qwen, tmp_path / "plain", **settings)
    assert len(begun) == expected


def test_a_bad_step_is_told_as_without_it(
    qwen: str, tmp_path: Path, begun: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = trees()
    data[2].weight[:] = np.inf
    ours = rows(qwen, tmp_path / "ours", data=data)
    assert any("non_finite" in row for row in ours)
    assert begun
    monkeypatch.setattr(setup, "overlaps", lambda *_: False)
    assert ours == rows(qwen, tmp_path / "plain", data=data)


def test_where_memory_runs_out_in_a_pass_that_is_begun_the_step_computes_it_itself(
    qwen: str, tmp_path: Path, begun: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(qwen, tmp_path / "plain")
    used, forward = len(begun), passes._forward
    begin: Callable[..., None] = passes.begin
    inside: list[bool] = []

    def beginning(*args: Any) -> None:
        inside.append(True)
        begin(*args)
        inside.pop()

    def full(*args: Any) -> Any:
        if inside:
            raise torch.OutOfMemoryError("the device is full")
        return forward(*args)

    monkeypatch.setattr(loop, "begin", beginning)
    monkeypatch.setattr(passes, "_forward", full)
    assert rows(qwen, tmp_path / "ours") == expected
    assert len(begun) == used


@pytest.mark.parametrize("how", ["evaluated", "another plan", "out of memory"])
def test_nothing_is_left_of_a_pass_that_is_thrown_away(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = trees(4)
    expected = loss_and_gradient(step_run(tiny_model("llama"), data, fill=60))
    begun = step_run(tiny_model("llama"), data, fill=60)
    forward = passes._forward
    if how == "out of memory":
        fails = iter([True])

        def full(*args: Any) -> Any:
            found = forward(*args)
            if next(fails, False):
                raise torch.OutOfMemoryError("the device is full")
            return found

        monkeypatch.setattr(passes, "_forward", full)
    passes.begin(begun, begun.plan(0))
    assert (begun.begun is None) == (how == "out of memory")
    if how == "evaluated":
        loop.evaluate(begun, data[:2])
    assert (begun.begun is None) == (how != "another plan")
    loss, gradient = loss_and_gradient(begun)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(gradient, expected[1])


def test_passes_that_were_halved_are_begun_no_more_than_they_fit(
    qwen: str, tmp_path: Path, begun: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, forward = 48, passes._forward

    def scarce(run: Any, pack: Pack, *args: Any) -> Any:
        if pack.size > limit:
            raise torch.OutOfMemoryError("the device is full")
        return forward(run, pack, *args)

    monkeypatch.setattr(passes, "_forward", scarce)
    found = rows(qwen, tmp_path / "small", micro_batch_tokens=4096)
    assert all(pack.size <= limit for pack in begun)
    assert any("out_of_memory" in row for row in found)
    assert all(np.isfinite(row["loss"]) for row in found if "loss" in row)


def test_nothing_is_begun_where_random_numbers_or_the_loss_scale_depend_on_the_order() -> None:
    cuda, model = torch.device("cuda"), tiny_model("qwen3")
    assert passes.overlaps(cuda, "bf16", model)
    assert not passes.overlaps(torch.device("cpu"), "bf16", model)
    assert not passes.overlaps(cuda, "fp16", model)
    adapted = get_peft_model(tiny_model("qwen3"), LoraConfig(target_modules="all-linear", lora_dropout=0.1))
    assert not passes.overlaps(cuda, "bf16", adapted)
    model.config.attention_dropout = 0.1
    assert not passes.overlaps(cuda, "bf16", model)
