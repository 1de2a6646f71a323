"""Writing checkpoints and the finished model: aside, with a manifest of checksums, synced, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from agentsft.train.checkpoint import MANIFEST, OPTIMIZER, STATE, digests, fault
from agentsft.train.earlier import all_checkpoints
from agentsft.train.memory import out_of_memory

MODEL_CONFIGS = ("config.json", "adapter_config.json")
"""What makes a folder a model for Transformers or PEFT: written last, so that a half-written one is none."""

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "adapter_model*.safetensors")


def save_checkpoint(
    output: Path,
    model: Any,
    weights: dict[str, torch.Tensor] | None,
    moments: dict[str, Any],
    state: dict[str, Any],
    limit: int | None,
) -> Path:
    """Writes checkpoint-`state["step"]` and removes the oldest beyond `limit`. Call it on the main process alone.

    `weights` is the model's state dict (None: take it from the model), `moments` the optimizer's. Raises OSError where
    it cannot be written (a full disk); earlier checkpoints are then as they were.
    """
    path, aside = places(output, state["step"])
    make_aside(aside)
    try:
        _write(aside, model, weights, moments)
        describe(aside, state, {})
        put_in_place(aside, path, limit)
    except Exception:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return path


def places(output: Path, step: int) -> tuple[Path, Path]:
    """Where the checkpoint of `step` belongs, and where it is written first."""
    path = output / f"checkpoint-{step}"
    return path, output / f".{path.name}.tmp"


def make_aside(aside: Path) -> None:
    """Makes the folder in which a checkpoint is written; what a killed run has left goes."""
    for leftover in aside.parent.glob(".checkpoint-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)


def describe(aside: Path, state: dict[str, Any], known: dict[str, Any]) -> None:
    """Writes the trainer's state and the manifest, whose entries for some files may be `known`; syncs all."""
    (aside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    names = sorted(file.relative_to(aside).as_posix() for file in aside.rglob("*") if file.is_file())
    found = digests(aside, [name for name in names if name not in known])
    files = known | {name: {"bytes": (aside / name).stat().st_size, "sha256": found[name]} for name in found}
    (aside / MANIFEST).write_text(json.dumps({"files": dict(sorted(files.items()))}, indent=1), encoding="utf-8")
    for file in (*aside.rglob("*"), aside):
        sync(file)


def put_in_place(aside: Path, path: Path, limit: int | None) -> None:
    """Gives the checkpoint its name, and removes the oldest beyond `limit`."""
    output = path.parent
    for log in output.glob("*.jsonl"):  # the rows of the steps that a resumed run will not repeat
        sync(log)
    replaced = _set_aside(path)
    os.replace(aside, path)
    sync(output)
    shutil.rmtree(replaced, ignore_errors=True)
    if limit:
        others = [other for other in all_checkpoints(output) if other != path]
        others.sort(key=lambda other: fault(other, content=False) is None)  # damaged ones go first, then the oldest
        for old in others[: max(0, len(others) - limit + 1)]:
            shutil.rmtree(_set_aside(old), ignore_errors=True)


def _write(folder: Path, model: Any, weights: dict[str, torch.Tensor] | None, moments: dict[str, Any]) -> None:
    try:
        save_weights(model, folder, weights)
        torch.save(moments, folder / OPTIMIZER)
    except (SafetensorError, RuntimeError) as error:  # what safetensors and torch raise where a write fails
        if isinstance(error, torch.AcceleratorError) or out_of_memory(error):
            raise
        raise OSError(" ".join(str(error).split())) from error


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


def save_weights(model: Any, path: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """The model, or the adapter alone, as safetensors that from_pretrained loads; `weights` stand for the model's."""
    named: dict[str, Any] = {} if weights is None else {"state_dict": dict(weights)}
    if hasattr(model, "peft_config"):
        named["save_embedding_layers"] = False  # else PEFT asks the model hub
    model.save_pretrained(str(path), **named)


def save_model(model: Any, tokenizer: Any, output: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Model or adapter, tokenizer and chat template, into `output`. Raises OSError where they cannot be written.

    `weights` stand for the model's, which may be sharded.

    They are written aside and synced first. Then the old model's config goes, the files take their places, and the
    config comes last: a folder in which this was cut short is refused by from_pretrained, never half a model.
    """
    aside = output / ".model.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        save_weights(model, aside, weights)
        (aside / "README.md").unlink(missing_ok=True)  # PEFT's, with blanks to fill; write_card follows
        tokenizer.save_pretrained(aside)
        files = [file for file in sorted(aside.rglob("*")) if file.is_file()]
        for file in files:
            sync(file)
    except (SafetensorError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(" ".join(str(error).split())) from error
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for name in MODEL_CONFIGS:
        (output / name).unlink(missing_ok=True)
    sync(output)
    for old in (path for pattern in WEIGHTS for path in output.glob(pattern)):  # other shards of an earlier model
        old.unlink()
    for file in sorted(files, key=lambda file: file.name in MODEL_CONFIGS):
        place = output / file.relative_to(aside)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.name in MODEL_CONFIGS:
            sync(output)
        os.replace(file, place)
    sync(output)
    shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until what `path` holds is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
