"""Checkpoints that a run goes on from: found, verified by their manifest of checksums, and read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.train.earlier import all_checkpoints, refuse_earlier_run
from agentsft.train.shard import like, own_part, slices

STATE, OPTIMIZER, MANIFEST = "trainer_state.json", "optimizer.pt", "manifest.json"

SHARDS = "shards.json"
"""The index of a checkpoint in shards, which has neither plain weights nor an optimizer.pt."""

ABANDONED = "abandoned"


def fault(path: Path, content: bool = True) -> str | None:
    """What is wrong with the checkpoint in `path` by its manifest, or None. Without `content` sizes alone count."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        if missing := {STATE, SHARDS if SHARDS in files else OPTIMIZER} - files.keys():
            return f"{MANIFEST} does not list {min(missing)}"
        for name, listed in files.items():
            if (size := (path / name).stat().st_size) != listed["bytes"]:
                return f"{name} has {size} bytes, not {listed['bytes']}"
        found = digests(path, files) if content else {}
        changed = [name for name, digest in found.items() if files[name]["sha256"] != digest]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read: {error}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not what was written"
    return f"{changed[0]} is not what was written" if changed else None


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each file, several files at a time."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def choose_checkpoint(config: TrainConfig) -> tuple[Path | None, list[str]]:
    """`checkpoint_to_resume`, found by the main process for all: one reading of the files is enough."""
    answer: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            answer = [checkpoint_to_resume(config)]
        except UserError as error:
            answer = [error]
    [found] = broadcast_object_list(answer)
    if isinstance(found, UserError):
        raise found
    return found


def checkpoint_to_resume(config: TrainConfig) -> tuple[Path | None, list[str]]:
    """The checkpoint that the settings resume and resume_from_checkpoint ask for, and a note on each damaged one.

    None stands for a fresh start. Raises UserError where no checkpoint is whole, or where a fresh run would mix its
    checkpoints with those of another.
    """
    existing = all_checkpoints(Path(config.output))
    if config.resume_from_checkpoint:
        path = Path(config.resume_from_checkpoint)
        if not any((path / name).is_file() for name in (STATE, MANIFEST)):
            raise UserError(f"resume_from_checkpoint: {path} is no checkpoint (it has no {STATE}).")
        if wrong := fault(path):
            raise UserError(f"resume_from_checkpoint: {path} is damaged ({wrong}); resume from another checkpoint.")
        return path, []
    if not config.resume:
        refuse_earlier_run(config)
        return None, []
    notes: list[str] = []
    for path in reversed(existing):
        if not (wrong := fault(path)):
            return path, notes
        notes.append(f"{path} is damaged ({wrong}) and is passed over.")
    if existing:
        raise UserError(f"resume: {' '.join(notes)} None is whole: remove them to start afresh.")
    return None, []


def set_abandoned_aside(output: Path, resumed: Path) -> str:
    """Renames the checkpoints in `output` that the run from `resumed` does not lead to; says so, or gives ''.

    Those are the later ones, or all of them where `resumed` lies in another folder. --resume, which takes the newest,
    would else go on from a future that this run has given up. Raises UserError where they cannot be renamed.
    """
    existing = all_checkpoints(output)
    own = next((number for number, path in enumerate(existing) if path.resolve() == resumed.resolve()), -1)
    abandoned = existing[own + 1 :]
    for path in abandoned:
        number, aside = 1, path.with_name(f"{path.name}.{ABANDONED}")
        while aside.exists():
            number, aside = number + 1, path.with_name(f"{path.name}.{ABANDONED}-{number + 1}")
        try:
            os.replace(path, aside)
        except OSError as error:
            raise UserError(f"{path}: cannot be set aside ({error}); move it away and start again.") from None
    names = ", ".join(path.name for path in abandoned)
    return f"{names}: not on the way from {resumed}; set aside as {ABANDONED}, to be removed by you." if names else ""


def load_state(path: Path) -> dict[str, Any]:
    """The trainer state in `path`. Raises UserError where it cannot be read."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        state["step"], state["fingerprint"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / STATE}: cannot be read ({error}); resume from another checkpoint.") from None
    return state


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Moments and step counts from `path`; rates and other settings stay those of `optimizer`."""
    try:
        # Mapped, since each of several processes takes only its own share of it.
        saved = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)["state"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states = {
            number: {name: _share(value, parameters[number]) for name, value in values.items()}
            for number, values in saved.items()
        }
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path / OPTIMIZER}: cannot be read ({reason}); resume from another checkpoint.") from None


def _share(value: Any, parameter: torch.Tensor) -> Any:
    """What this process holds of a moment of `parameter`, which may be sharded."""
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return value
    local, offset = own_part(parameter)
    return like(value[slices(offset, local.shape)].clone(), parameter)
