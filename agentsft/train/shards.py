"""Checkpoints in shards: each process writes what it holds, and any number of processes reads what it needs.

A shard is a safetensors file with the parts of tensors that one process holds; shards.json says which part of which
tensor stands where. Nothing in it is executed or unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from agentsft.errors import UserError
from agentsft.train.checkpoint import SHARDS, digests
from agentsft.train.memory import out_of_memory
from agentsft.train.saving import describe, make_aside, places, put_in_place, sync
from agentsft.train.shard import like, own_part, slices

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A part of a tensor of `shape`: `tensor`, which begins at `offset`."""

    tensor: torch.Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]


def changing(model: Any) -> dict[str, torch.Tensor]:
    """What training may change of a model, by its name in the state dict: all but frozen weights; tied ones once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor) and (value.requires_grad or not isinstance(value, nn.Parameter)):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def parts_of(model: Any, optimizer: Any) -> dict[str, Part]:
    """This process's parts of weights and moments: `weight/NAME`, and `STATE/NAME` for the optimizer's states.

    What every process holds whole is a part of the first one alone.
    """
    tensors = {f"weight/{name}": value for name, value in changing(model).items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, states in optimizer.state.items():
        for state, value in states.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{state}/{names[id(parameter)]}"] = value
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    parts = {}
    for key, value in tensors.items():
        local, offset = own_part(value)
        if local.numel() and (first or isinstance(value, DTensor)):
            parts[key] = Part(local, offset, tuple(value.shape))
    return parts


def save_shards(output: Path, parts: dict[str, Part], state: dict[str, Any], limit: int | None, group: Any) -> Path:
    """Writes checkpoint-`state["step"]` by all processes of `group`, each its own `parts`; see `save_checkpoint`.

    The main process writes the rest and renames the folder once all shards are there. Raises OSError, on every process,
    where any of them cannot write; earlier checkpoints are then as they were.
    """
    rank, world = distributed.get_rank(group), distributed.get_world_size(group)
    path, aside = places(output, state["step"])
    main = rank == 0
    try:
        _together(lambda: make_aside(aside) if main else None, group)
        written = _together(lambda: _write_shard(aside, f"shard-{rank + 1:05}-of-{world:05}.safetensors", parts), group)
        _together(lambda: _write_index(aside, path, written, state, limit) if main else None, group)
    except Exception:
        if main:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    return path


def _together(work: Callable[[], T], group: Any) -> list[T]:
    """What `work` gives on each process; where it fails on any, an error on all."""
    mine: T | None = None
    error: Exception | None = None
    try:
        mine = work()
    except Exception as caught:  # told to the others, then raised
        error = caught
    said = None if error is None else (isinstance(error, OSError), " ".join(str(error).split())[:300])
    everyone: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(everyone, (mine, said), group=group)
    if error is not None:
        raise error
    for number, (_, failed) in enumerate(everyone):
        if failed is not None:
            raise (OSError if failed[0] else RuntimeError)(f"process {number}: {failed[1]}")
    return [result for result, _ in everyone]


def _write_shard(folder: Path, name: str, parts: dict[str, Part]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The file's name, its entry of the manifest, and shape and offset of each part."""
    try:
        save_file({key: part.tensor.contiguous() for key, part in parts.items()}, folder / name)
    except (SafetensorError, RuntimeError) as error:  # what safetensors raises where a write fails
        if isinstance(error, torch.AcceleratorError) or out_of_memory(error):
            raise
        raise OSError(" ".join(str(error).split())) from error
    sync(folder / name)
    entry = {"bytes": (folder / name).stat().st_size, "sha256": digests(folder, [name])[name]}
    return name, entry, {key: (part.shape, part.offset) for key, part in parts.items()}


def _write_index(aside: Path, path: Path, written: list[Any], state: dict[str, Any], limit: int | None) -> None:
    tensors: dict[str, Any] = {}
    for name, entry, parts in written:
        if not (aside / name).is_file() or (aside / name).stat().st_size != entry["bytes"]:
            raise OSError(f"{name} is not there: output must lie on a file system that all machines share")
        for key, (shape, offset) in parts.items():
            tensors.setdefault(key, {"shape": shape, "parts": []})["parts"].append({"file": name, "offset": offset})
    (aside / SHARDS).write_text(json.dumps({"tensors": tensors}), encoding="utf-8")
    describe(aside, state, {name: entry for name, entry, _ in written})
    put_in_place(aside, path, limit)


class Shards:
    """The tensors of a checkpoint in shards, read part by part. Use it as a context.

    Raises UserError where the folder does not hold what it should.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}
        try:
            self._tensors = json.loads((folder / SHARDS).read_text(encoding="utf-8"))["tensors"]
            self._tensors.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._error(SHARDS, error) from None

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()

    def is_scalar(self, key: str) -> bool:
        return not self._tensors[key].get("shape")

    def states_of(self, name: str) -> list[str]:
        """The optimizer's states of the parameter `name`."""
        return [key.split("/", 1)[0] for key in self._tensors if key.endswith(f"/{name}") and key[:7] != "weight/"]

    def read_into(self, key: str, whole: torch.Tensor) -> None:
        """Fills this process's part of `whole` with what the tensor `key` has there."""
        local, offset = own_part(whole)
        local.copy_(self.read(key, tuple(whole.shape), offset, tuple(local.shape)))

    def read(self, key: str, whole: tuple[int, ...], offset: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
        """The part of `shape` at `offset` of the tensor `key`, whose shape is `whole`, put together from all shards."""
        try:
            entry = self._tensors[key]
            if tuple(entry["shape"]) != whole:
                raise ValueError(f"{key} has the shape {entry['shape']}, not {list(whole)}")
            found, covered = None, 0
            for part in entry["parts"]:
                piece = self._file(part["file"]).get_slice(key)
                first = tuple(part["offset"])
                start = tuple(map(max, offset, first))
                ends = zip(offset, shape, first, piece.get_shape(), strict=True)
                size = tuple(min(o + n, f + m) - s for s, (o, n, f, m) in zip(start, ends, strict=True))
                if min(size, default=1) <= 0:
                    continue
                inside = slices(tuple(s - f for s, f in zip(start, first, strict=True)), size)
                values = piece[inside] if inside else self._file(part["file"]).get_tensor(key)
                if found is None:
                    found = torch.empty(shape, dtype=values.dtype)
                found[slices(tuple(s - o for s, o in zip(start, offset, strict=True)), size)] = values
                covered += values.numel()
            needed = torch.Size(shape).numel()
            if covered != needed:
                raise ValueError(f"{key} has {covered} of {needed} numbers")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise self._error(key, error) from None
        return torch.empty(shape) if found is None else found

    def _file(self, name: str) -> Any:
        if name not in self._files:
            if Path(name).name != name:
                raise ValueError(f"{name} is no file of this folder")
            self._files[name] = safe_open(self._folder / name, framework="pt")
        return self._files[name]

    def _error(self, what: str, error: Exception) -> UserError:
        return UserError(f"{self._folder}: {what} cannot be read ({error}); resume from another checkpoint.")


@torch.no_grad()
def restore(folder: Path, model: Any, optimizer: Any) -> None:
    """Weights and moments of the checkpoint in shards in `folder`, into a model and its optimizer, sharded or not."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with Shards(folder) as shards:
        for name, value in changing(model).items():
            shards.read_into(f"weight/{name}", value)
        states: dict[int, dict[str, torch.Tensor]] = {}
        for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            states[number] = {}
            name = names[id(parameter)]
            local, offset = own_part(parameter)
            for state in shards.states_of(name):
                key = f"{state}/{name}"
                if shards.is_scalar(key):
                    states[number][state] = shards.read(key, (), (), ())
                else:
                    part = shards.read(key, tuple(parameter.shape), offset, tuple(local.shape))
                    states[number][state] = like(part, parameter)
        optimizer.load_state_dict(
            {**optimizer.state_dict(), "state": {number: found for number, found in states.items() if found}}
        )
