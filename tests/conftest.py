"""Fixtures of all tests: real models, tokenizers and templates, and no network, no user's caches."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Hypothesis reads all modules before its first value, which a busy machine makes it take for a slow test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Libraries read these when they are imported, which fixtures would be too late for.
_home = tempfile.TemporaryDirectory(prefix="agentsft-tests-")
for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "FORCE_COLOR", "COLUMNS"):
    os.environ.pop(name, None)
os.environ.update(
    HF_HOME=_home.name,
    XDG_CACHE_HOME=_home.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="2",
)

from tests import assets  # noqa: E402


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    """Torch takes OMP_NUM_THREADS when it is imported; a test that changed the number does not change it for others."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real conversations and golden vectors beside the repository, or $AGENTSFT_SHARED."""
    if not assets.SHARED.is_dir():
        pytest.skip(f"no real data: {assets.SHARED} is absent; AGENTSFT_SHARED names another folder")
    return assets.SHARED


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Transformers folder; not to be written to."""
    return assets.smollm2_folder()


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> Any:
    """SmolLM2's tokenizer with its own chat template; not to be changed."""
    return assets.smollm2_tokenizer()


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Any:
    """Qwen3's tokenizer with its chat template; not to be changed."""
    return assets.qwen_tokenizer()


@pytest.fixture(scope="session")
def deepseek_tokenizer() -> Any:
    """DeepSeek's tokenizer with DeepSeek-V3's chat template; not to be changed."""
    return assets.deepseek_tokenizer()


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """The chat templates of many models, by name."""
    return assets.templates()


@pytest.fixture(scope="session")
def tokenizer_for() -> Callable[[str], Any]:
    """A function from a template's name to a tokenizer with that template and its model's special tokens."""
    return assets.tokenizer_for
