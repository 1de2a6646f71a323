"""What the tests of hostile input share."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from agentsft.encode import load, prepare


@pytest.fixture(scope="package", autouse=True)
def _one_tokenizer() -> Iterator[None]:
    """Each model's tokenizer is loaded once, not by each of hundreds of commands, and so is its vocabulary's bytes."""
    load_tokenizer, encoder = load.load_tokenizer, prepare.ChunkEncoder

    @functools.cache
    def loaded(model: str, trust_remote_code: bool) -> Any:
        return load_tokenizer(load.DataConfig(model=model, trust_remote_code=trust_remote_code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_tokenizer", lambda config: loaded(config.model, config.trust_remote_code))
        patch.setattr(prepare, "ChunkEncoder", functools.cache(encoder))
        yield
