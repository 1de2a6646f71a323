"""What an earlier run left in the output folder. Needs no torch, so that it is said before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from agentsft.config import TrainConfig
from agentsft.errors import UserError


def all_checkpoints(output: Path) -> list[Path]:
    """The folders named checkpoint-N in `output`, whole or not, oldest first."""
    numbered = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in output.glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in numbered if match)]


def refuse_earlier_run(config: TrainConfig) -> None:
    """Raises UserError where a fresh run would mix its files with the checkpoints of another."""
    if not config.resume and not config.resume_from_checkpoint and all_checkpoints(Path(config.output)):
        raise UserError(
            f"output: {config.output} holds checkpoints of an earlier run; "
            "go on from them with --resume, remove them, or name another folder."
        )
