"""What the launcher asks for is done as asked, or refused in one line that says what to do."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train.launch import ALLOCATOR, Sharding, asked_sharding, expandable_memory


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")


def under(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **environment}.items():
        monkeypatch.setenv(name, value)


def test_ddp_is_the_default_and_one_process_is_never_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_sharding(TrainConfig()) is None
    assert asked_sharding(TrainConfig(fsdp=True)) == Sharding()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert asked_sharding(TrainConfig(fsdp=True)) is None


def test_the_launcher_asks_for_fsdp2_and_its_options_count(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch)
    assert asked_sharding(TrainConfig()) == Sharding()
    under(monkeypatch, FSDP_RESHARD_AFTER_FORWARD="false", FSDP_ACTIVATION_CHECKPOINTING="true")
    assert asked_sharding(TrainConfig()) == Sharding(reshard=False, checkpointing=True)


@pytest.mark.parametrize(
    ("environment", "settings", "said"),
    [
        ({"FSDP_VERSION": "1"}, {}, "--fsdp_version 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "tuner: lora"),
        ({"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "true"}, {}, "--use_fsdp --fsdp_version 2"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "--use_fsdp --fsdp_version 2"),
        ({}, {"precision": "fp16"}, "precision: fp16"),
        ({}, {"load_in_4bit": True, "tuner": "lora"}, "load_in_4bit"),
        ({}, {"eval_generate": 2}, "agentsft eval"),
    ],
)
def test_what_is_not_used_is_refused_in_one_line(
    environment: dict[str, str], settings: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    under(monkeypatch, **environment)
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        asked_sharding(TrainConfig(**settings))
    assert said in str(caught.value)


def test_gpu_memory_grows_in_place_unless_the_driver_cannot_or_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(release: str = "6.8.0-generic", system: str = "linux", **environment: str) -> str | None:
        with monkeypatch.context() as scope:
            for name in (*ALLOCATOR, "CUDA_VISIBLE_DEVICES"):
                scope.setenv(name, "")  # so that what is set here is undone
                scope.delenv(name)
            for name, value in environment.items():
                scope.setenv(name, value)
            scope.setattr(sys, "platform", system)
            scope.setattr(os, "uname", lambda: SimpleNamespace(release=release), raising=False)
            expandable_memory()
            return os.environ.get(ALLOCATOR[0])

    assert said() == said(CUDA_VISIBLE_DEVICES="0,1") == "expandable_segments:True"
    assert said("5.15.90.1-microsoft-standard-WSL2") is said(system="win32") is None
    assert said(CUDA_VISIBLE_DEVICES="MIG-8a2b") is None
    assert said(PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:512") is None
    assert said(PYTORCH_ALLOC_CONF="expandable_segments:False") == "expandable_segments:False"
