"""What the other processes of a run are to this one: where one of them dies, this one must end, and say so."""

from __future__ import annotations

import re

import torch

_SIGNS = re.compile(r"gloo|NCCL|Connection (?:closed|reset|refused)|Broken pipe|Socket", re.IGNORECASE)


def lost_peer(error: RuntimeError) -> bool:
    """Whether `error` is what a collective operation raises when another process has ended."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_world_size() == 1:
        return False
    return isinstance(error, torch.distributed.DistError) or bool(_SIGNS.search(str(error)))
