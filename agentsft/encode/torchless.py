"""Tokenizers without torch, which Transformers imports where it finds it: longer than all else that a preview does."""

from __future__ import annotations

import os
import sys
from typing import Any

from agentsft.config import DataConfig

own_process = False
"""Whether nothing but one command runs in this process, so that nobody misses torch in it. The command line says so."""


def leave_torch_out(config: DataConfig) -> None:
    """To be called before a tokenizer is loaded by who computes with no model; code that a model brings may want it."""
    if own_process and not config.trust_remote_code and "torch" not in sys.modules:
        hide_torch()
        from transformers.utils import is_torch_available

        is_torch_available()  # it remembers the answer
        del sys.modules["torch"]  # whoever finds the name there thinks that it has been imported


def hide_torch() -> None:
    """Lets imports of torch fail from now on, as if it were not installed, where nobody has imported it yet."""
    if "torch" not in sys.modules:
        modules: dict[str, Any] = sys.modules
        modules["torch"] = None
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # not to say that models would need torch
