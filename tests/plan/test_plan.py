"""A plan is the run's own arithmetic, and near what runs took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Qwen3Config

from agentsft.config import TrainConfig
from agentsft.encode.load import load_preparer, load_rows
from agentsft.plan.gpus import GPUS, USABLE, gpu_named
from agentsft.plan.memory import GIB
from agentsft.plan.plan import Plan, make_plan
from agentsft.types import TokenTree
from benchmarks.long_rows import row as long_row
from tests.batch.trees import random_tree, with_beginning

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
H100 = GPUS["H100"]
TAU, TOOLBENCH = "tau_airline_openai.jsonl", "toolbench_react.jsonl"
LONG = {"13,500 tokens": 13_500, "59,000 tokens": 59_000, "117,000 tokens": 117_000}
"""Conversations made up by benchmarks/long_rows.py."""
SHAPES = {
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8B": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
LORA, CHECKPOINTED = {"tuner": "lora"}, {"gradient_checkpointing": True}
QLORA = {**LORA, "load_in_4bit": True}
OFFLOADED = {**CHECKPOINTED, "activation_offloading": True, "micro_batch_tokens": 131072}
PACK_32K, PACK_64K = {"micro_batch_tokens": 32768}, {"micro_batch_tokens": 65536}
MEASURED = [
    # rows, conversations a step, steps, shape, settings, GPU, GPUs, sharded; computed tokens, seconds a step, peak GiB
    (TAU, 16, 6, "1.7B", {}, "H200", 1, False, 0.65, 1.79, 52.2),
    (TAU, 16, 6, "1.7B", CHECKPOINTED, "H200", 1, False, 0.65, 2.54, 31.2),
    (TAU, 16, 4, "8B", LORA, "H200", 1, False, 0.65, 6.00, 71.6),
    (TAU, 16, 4, "8B", LORA, "H200", 2, False, 0.66, 3.18, 69.9),
    (TAU, 16, 4, "8B", LORA, "H200", 2, True, 0.66, 3.36, 62.9),
    (TAU, 16, 4, "8B", CHECKPOINTED, "H200", 2, True, 0.66, 5.41, 87.7),
    (TAU, 32, 7, "1.7B", {}, "H200", 2, False, 0.65, 1.97, 53.1),
    (TAU, 32, 7, "1.7B", {}, "H200", 2, True, 0.65, 2.06, 40.8),
    (TOOLBENCH, 64, 6, "1.7B", {}, "H200", 1, False, 0.92, 1.06, 51.3),
    (TOOLBENCH, 128, 7, "1.7B", {}, "H200", 1, False, 0.92, 1.96, 52.8),
    (TOOLBENCH, 128, 7, "1.7B", {}, "H200", 2, False, 0.92, 1.03, 51.2),
    ("117,000 tokens", 1, 4, "1.7B", OFFLOADED, "H200", 1, False, 1.0, 16.01, 38.6),
    ("59,000 tokens", 1, 4, "8B", LORA | OFFLOADED, "H200", 1, False, 1.0, 13.74, 33.9),
    ("59,000 tokens", 1, 4, "8B", LORA | CHECKPOINTED | PACK_64K, "H200", 1, False, 1.0, 13.60, 46.8),
    ("13,500 tokens", 1, 4, "8B", QLORA, "H200", 1, False, 1.0, 1.149, 54.1),
    ("13,500 tokens", 1, 4, "8B", QLORA | CHECKPOINTED, "H200", 1, False, 1.0, 1.614, 13.1),
    (TAU, 16, 6, "8B", LORA | CHECKPOINTED | PACK_32K, "H200", 1, False, 0.57, 7.54, 28.4),
    (TAU, 16, 6, "1.7B", {}, "H100", 1, False, 0.65, 1.93, 53.4),
    (TOOLBENCH, 64, 6, "1.7B", {}, "H100", 1, False, 0.92, 1.15, 52.4),
]
"""Runs of docs/performance.md and docs/scale.md."""


def model(folder: Path, **sizes: Any) -> str:
    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, **sizes}
    Qwen3Config(**config).save_pretrained(folder)
    return str(folder)


def trees(count: int = 24) -> list[TokenTree]:
    random = np.random.default_rng(5)
    return [random_tree(random, int(size)) for size in random.integers(20, 200, count)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model(tmp_path_factory.mktemp("small"), **SMALL)


def plan(small: str, gpu: Any = H100, gpus: int = 1, sharded: bool = False, **settings: Any) -> Plan:
    config = TrainConfig(model=small, **{"batch_size": 4, "micro_batch_tokens": 512, **settings})
    return make_plan(config, trees(), 24, gpu, gpus, sharded)


@pytest.fixture(scope="module")
def prepared(shared: Path, qwen_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[TokenTree]]:
    files, found = {name: shared / "data" / name for name in (TAU, TOOLBENCH)}, {}
    for name, tokens in LONG.items():
        files[name] = tmp_path_factory.mktemp("long") / f"{tokens}.jsonl"
        files[name].write_text(json.dumps(long_row(qwen_tokenizer, tokens, seed=0)))
    for name, file in files.items():
        preparer = load_preparer(config := TrainConfig(data=[str(file)]), qwen_tokenizer)
        found[name] = [one.tree for one in preparer.prepare(load_rows(config)) if one.tree is not None]
    return found


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "batch", "steps", "shape", "settings", "gpu", "gpus", "sharded", "share", "seconds", "peak"), MEASURED
)
def test_packs_time_and_memory_are_those_of_a_measured_run(
    prepared: dict[str, list[TokenTree]], tmp_path: Path, name: str, batch: int, steps: int, shape: str,
    settings: dict[str, Any], gpu: str, gpus: int, sharded: bool, share: float, seconds: float, peak: float,
) -> None:  # fmt: skip
    common = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960}
    folder = model(tmp_path, **common | SHAPES[shape])
    config = TrainConfig(model=folder, batch_size=batch, max_steps=steps, **settings)
    made = make_plan(config, prepared[name], len(prepared[name]), GPUS[gpu], gpus, sharded)
    assert made.work.computed / made.work.tokens == pytest.approx(share, abs=0.01)
    assert made.seconds[1] / made.work.steps == pytest.approx(seconds, rel=0.15)
    assert made.memory.total / GIB == pytest.approx(peak, rel=0.15)


def test_a_larger_pack_is_named_where_conversations_would_share_more_and_takes_the_time_it_says(small: str) -> None:
    alike = [with_beginning(tree, list(range(300))) for tree in trees()]
    config = TrainConfig(model=small, batch_size=12, micro_batch_tokens=600)
    slower = make_plan(config, alike, len(alike), H100)
    assert slower.faster is not None
    change, share, gib = slower.faster
    larger = replace(config, micro_batch_tokens=int(change.removeprefix("micro_batch_tokens: ")))
    faster = make_plan(larger, alike, len(alike), H100)
    assert faster.seconds[1] / slower.seconds[1] == pytest.approx(share)
    assert share < 0.8
    assert faster.memory.total / GIB == pytest.approx(gib)
    assert plan(small).faster is None  # nothing is shared there
    between = replace(H100, memory=(slower.memory.total + faster.memory.total) / 2 / GIB / USABLE)
    least = make_plan(config, alike, len(alike), between)
    assert least.fits
    assert least.faster is None or least.faster[0] != change


def test_steps_and_tokens_are_exactly_those_of_the_run(small: str) -> None:
    work = plan(small).work
    assert work.steps == 6
    assert work.tokens * work.steps == pytest.approx(sum(map(len, trees())))
    assert work.trained * work.steps == pytest.approx(sum(int((tree.weight > 0).sum()) for tree in trees()))
    assert work.computed / (work.passes * work.pack) <= work.fill <= 1
    assert work.pack >= max(map(len, trees()))


def test_more_gpus_share_the_time_and_only_sharding_shares_the_memory(small: str) -> None:
    one, two, shared = plan(small), plan(small, gpus=2), plan(small, gpus=2, sharded=True)
    assert one.seconds[1] / two.seconds[1] == pytest.approx(2 * two.work.balance * one.work.flops / two.work.flops)
    assert 0 < two.work.balance <= 1
    assert (one.exchange, two.memory.optimizer) == (0, one.memory.optimizer)
    assert shared.memory.optimizer == one.memory.optimizer / 2
    assert shared.exchange > two.exchange / 2 > 0


def test_between_machines_the_network_sets_the_pace(small: str) -> None:
    assert H100.bandwidth(2) == H100.bandwidth(8) == H100.link
    assert H100.bandwidth(16) == 8 * H100.network < H100.link
    assert GPUS["L40S"].bandwidth(16) == GPUS["L40S"].link  # its link within the machine is the slower one
    one, two = plan(small, gpus=8), plan(small, gpus=16)
    grows = (15 / 16) / (7 / 8) * H100.link / (8 * H100.network)
    assert two.exchange / one.exchange == pytest.approx(grows)


def test_what_is_trained_decides_what_is_kept(small: str) -> None:
    full, lora, slow = plan(small), plan(small, tuner="lora"), plan(small, gradient_checkpointing=True)
    assert full.memory.optimizer == 2 * full.memory.gradients == 8 * full.shape.parameters
    assert lora.memory.optimizer == 8 * lora.shape.trainable
    assert 0 < lora.shape.trainable < full.shape.parameters < lora.shape.parameters
    assert slow.memory.activations < full.memory.activations
    assert 1.3 < slow.seconds[1] / full.seconds[1] < 4 / 3  # the head is not computed again
    again = plan(small, tuner="lora", gradient_checkpointing=True)
    assert 4 / 3 < again.seconds[1] / lora.seconds[1] < 3 / 2  # of products a half, of attention a third


def test_every_change_that_is_proposed_makes_it_fit(tmp_path: Path) -> None:
    large = model(
        tmp_path, vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    tight = replace(H100, memory=34.5)
    settings: dict[str, Any] = {"batch_size": 64, "micro_batch_tokens": 4096}
    first = plan(large, tight, **settings)
    assert not first.fits
    assert first.changes
    ways: dict[str, dict[str, Any]] = {
        "micro_batch_tokens: ": {},
        "gradient_checkpointing: true": {"gradient_checkpointing": True},
        "tuner: lora": {"tuner": "lora"},
        "tuner: lora, load_in_4bit: true": {"tuner": "lora", "load_in_4bit": True},
        "gradient_checkpointing: true, activation_offloading: true": {
            "gradient_checkpointing": True,
            "activation_offloading": True,
        },
    }
    tried = 0
    for change, gib in first.changes:
        assert gib <= 34.5
        for words, more in ways.items():
            if change == words:
                tried += 1
                assert plan(large, tight, **{**settings, **more}).memory.total / GIB == pytest.approx(gib)
    assert tried >= 2
    sharded = next(gib for change, gib in first.changes if "FSDP2" in change)
    count = int(next(change for change, _ in first.changes if "FSDP2" in change).split(" by ")[1].split()[0])
    assert plan(large, tight, count, True, **settings).fits
    assert sharded <= 34.5
    smaller = plan(large, replace(H100, memory=28.0), batch_size=64, micro_batch_tokens=16384)
    assert not smaller.fits
    for memory, words in {
        7.0: "tuner: lora, gradient_checkpointing: true",
        4.4: "tuner: lora, load_in_4bit: true",
    }.items():
        found = [change for change, _ in plan(large, replace(H100, memory=memory), **settings).changes]
        assert any(change.startswith(words) for change in found), (memory, found)
        # None is proposed that has more than another has.
        sets = [set(change.split(", ")) for change in found if "(FSDP2)" not in change and "with" not in change]
        assert not any(one < other for one in sets for other in sets)


def test_settings_that_do_not_go_together_are_refused_by_the_plan_too(small: str) -> None:
    for settings in ({"load_in_4bit": True}, {"activation_offloading": True}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            plan(small, **settings)
    with pytest.raises(ValueError, match="FSDP2"):
        plan(small, gpus=2, sharded=True, tuner="lora", load_in_4bit=True)
    four = plan(small, tuner="lora", load_in_4bit=True)
    assert four.shape.quantized > 0
    assert four.memory.weights < plan(small, tuner="lora").memory.weights
    assert (four.host, four.shape.trainable) == (0, plan(small, tuner="lora").shape.trainable)
    assert plan(small, gradient_checkpointing=True, activation_offloading=True).host > 0


def test_a_gpu_that_is_not_known_names_the_nearest() -> None:
    assert gpu_named("h200").name == "H200"
    with pytest.raises(ValueError, match=r'Did you mean "A100"'):
        gpu_named("A10O")
