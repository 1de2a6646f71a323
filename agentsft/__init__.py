"""Fine-tune language models on multi-turn agent conversations, with every token's weight proven.

`agentsft.api` has the functions for notebooks and other trainers; it is imported when it is first asked for.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "api":
        from importlib import import_module

        return import_module("agentsft.api")
    raise AttributeError(f"module 'agentsft' has no attribute {name!r}")
