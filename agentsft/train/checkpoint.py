"""Checkpoints: written aside, synced, renamed, so that a folder named checkpoint-N is always whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.types import TokenTree

STATE, OPTIMIZER = "trainer_state.json", "optimizer.pt"

MUST_MATCH = (
    "model",
    "tuner",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
    "seed",
    "batch_size",
    "normalize",
)
"""Settings that a resumed run shares with the one it goes on from."""


def fingerprint(config: TrainConfig, trees: Iterable[TokenTree]) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, and a digest of the training data's tokens and targets."""
    digest = hashlib.sha256()
    for tree in trees:
        for array in (tree.input_ids, tree.subtree_end, tree.source, tree.token, tree.weight):
            digest.update(len(array).to_bytes(8, "little"))
            digest.update(array.tobytes())
    return {name: getattr(config, name) for name in MUST_MATCH} | {"data": digest.hexdigest()}


def all_checkpoints(output: Path) -> list[Path]:
    """The checkpoints in `output`, oldest first."""
    numbered = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in output.glob("checkpoint-*")]
    found = sorted((int(match[1]), path) for match, path in numbered if match)
    return [path for _, path in found if (path / STATE).is_file()]


def checkpoint_to_resume(config: TrainConfig) -> Path | None:
    """The checkpoint that the settings resume and resume_from_checkpoint ask for, None to start afresh.

    Raises UserError where there is none, or where a fresh run would mix its checkpoints with those of another.
    """
    existing = all_checkpoints(Path(config.output))
    if config.resume_from_checkpoint:
        path = Path(config.resume_from_checkpoint)
        if not (path / STATE).is_file():
            raise UserError(f"resume_from_checkpoint: {path} is no checkpoint (it has no {STATE}).")
        return path
    if config.resume:
        return existing[-1] if existing else None
    if existing:
        raise UserError(
            f"output: {config.output} holds checkpoints of an earlier run; "
            "go on from them with --resume, remove them, or name another folder."
        )
    return None


def save_checkpoint(
    output: Path, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any], limit: int | None
) -> Path:
    """Writes checkpoint-`state["step"]` and removes the oldest beyond `limit`. Call it on the main process alone."""
    path = output / f"checkpoint-{state['step']}"
    aside = output / f".{path.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_weights(model, aside)
    torch.save(optimizer.state_dict(), aside / OPTIMIZER)
    (aside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for file in (*aside.rglob("*"), aside):
        _sync(file)
    if path.exists():
        shutil.rmtree(path)
    os.replace(aside, path)
    _sync(output)
    if limit:
        for old in [p for p in all_checkpoints(output) if p != path][: -(limit - 1) or None]:
            shutil.rmtree(old)
    return path


def save_weights(model: Any, path: Path) -> None:
    """The model, or the adapter alone, as safetensors that from_pretrained loads."""
    extra = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}  # else PEFT asks the model hub
    model.save_pretrained(str(path), **extra)


def load_state(path: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The trainer state in `path`. Raises UserError, naming what changed, where the fingerprints differ."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        saved = state["fingerprint"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path / STATE}: cannot be read ({error}); resume from another checkpoint.") from None
    changed = [
        f"{name} ({saved.get(name)} there, {value} now)" if name != "data" else "the training data"
        for name, value in expected.items()
        if saved.get(name) != value
    ]
    if changed:
        raise UserError(f"{path}: this checkpoint belongs to another run; changed: {', '.join(changed)}.")
    return state


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Moments and step counts from `path`; rates and other settings stay those of `optimizer`."""
    try:
        saved = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path / OPTIMIZER}: cannot be read ({reason}); resume from another checkpoint.") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
