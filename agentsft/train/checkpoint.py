"""Checkpoints: written aside with a manifest of checksums, synced, renamed; verified before a run goes on from one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.types import TokenTree

STATE, OPTIMIZER, MANIFEST = "trainer_state.json", "optimizer.pt", "manifest.json"

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
    """The folders named checkpoint-N in `output`, whole or not, oldest first."""
    numbered = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in output.glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in numbered if match)]


def fault(path: Path, content: bool = True) -> str | None:
    """What is wrong with the checkpoint in `path` by its manifest, or None. Without `content` sizes alone count."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        if missing := {STATE, OPTIMIZER} - files.keys():
            return f"{MANIFEST} does not list {min(missing)}"
        for name, listed in files.items():
            if (size := (path / name).stat().st_size) != listed["bytes"]:
                return f"{name} has {size} bytes, not {listed['bytes']}"
        digests = _digests(path, files) if content else {}
        changed = [name for name, digest in digests.items() if files[name]["sha256"] != digest]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read: {error}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not what was written"
    return f"{changed[0]} is not what was written" if changed else None


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
        if existing:
            raise UserError(
                f"output: {config.output} holds checkpoints of an earlier run; "
                "go on from them with --resume, remove them, or name another folder."
            )
        return None, []
    notes: list[str] = []
    for path in reversed(existing):
        if not (wrong := fault(path)):
            return path, notes
        notes.append(f"{path} is damaged ({wrong}) and is passed over.")
    if existing:
        raise UserError(f"resume: {' '.join(notes)} None is whole: remove them to start afresh.")
    return None, []


def save_checkpoint(
    output: Path, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any], limit: int | None
) -> Path:
    """Writes checkpoint-`state["step"]` and removes the oldest beyond `limit`. Call it on the main process alone.

    Raises OSError where it cannot be written (a full disk); earlier checkpoints are then as they were.
    """
    path = output / f"checkpoint-{state['step']}"
    aside = output / f".{path.name}.tmp"
    for leftover in output.glob(".checkpoint-*.tmp"):  # of a killed run
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _write(aside, model, optimizer, state)
        for log in output.glob("*.jsonl"):  # the rows of the steps that a resumed run will not repeat
            _sync(log)
        replaced = _set_aside(path)
        os.replace(aside, path)
        _sync(output)
    except Exception:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    if limit:
        others = [other for other in all_checkpoints(output) if other != path]
        others.sort(key=lambda other: fault(other, content=False) is None)  # damaged ones go first, then the oldest
        for old in others[: max(0, len(others) - limit + 1)]:
            shutil.rmtree(_set_aside(old), ignore_errors=True)
    return path


def _write(folder: Path, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    try:
        save_weights(model, folder)
        torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except (SafetensorError, RuntimeError) as error:  # what safetensors and torch raise where a write fails
        raise OSError(" ".join(str(error).split())) from error
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in _digests(folder, names).items()
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    for file in (*folder.rglob("*"), folder):
        _sync(file)


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each file, several files at a time."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def _set_aside(path: Path) -> Path:
    """Renames a checkpoint, if there, so that no half-removed folder bears its name. Gives the new name."""
    aside = path.with_name(f".{path.name}.old.tmp")
    if path.exists():
        os.replace(path, aside)
    return aside


def not_written(output: Path, step: int, error: OSError) -> str:
    """What to say where `save_checkpoint` raised `error`."""
    free = shutil.disk_usage(output).free / 2**30
    return f"checkpoint-{step} could not be written ({error}; {free:.1f} GiB free); earlier ones stay, the run goes on."


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
