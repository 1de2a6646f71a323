"""Tensors that some processes wrote in parts are what any other number of processes reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from agentsft.errors import UserError
from agentsft.train.shards import Shards

SHAPES = [(), (1,), (7,), (5, 3), (16, 2), (1, 4)]


def bounds(rows: int, world: int) -> list[tuple[int, int]]:
    """First row and number of rows of each process, as FSDP2 divides them: some may have none."""
    each = -(-rows // world)
    return [(min(rank * each, rows), max(min(each, rows - rank * each), 0)) for rank in range(world)]


def write(folder: Path, tensors: dict[str, torch.Tensor], world: int) -> None:
    index: dict[str, Any] = {key: {"shape": list(value.shape), "parts": []} for key, value in tensors.items()}
    for rank in range(world):
        held = {}
        for key, value in tensors.items():
            first, rows = bounds(value.shape[0], world)[rank] if value.ndim else (0, int(rank == 0))
            if rows:
                held[key] = value[first : first + rows].contiguous() if value.ndim else value
                index[key]["parts"].append({"file": f"{rank}.safetensors", "offset": [first] + [0] * (value.ndim - 1)})
                if not value.ndim:
                    index[key]["parts"][-1]["offset"] = []
        save_file(held, folder / f"{rank}.safetensors")
    (folder / "shards.json").write_text(json.dumps({"tensors": index}), encoding="utf-8")


@settings(max_examples=40, deadline=None)
@given(writers=st.integers(1, 9), readers=st.integers(1, 9))
def test_any_number_of_processes_reads_what_any_other_wrote(
    tmp_path_factory: pytest.TempPathFactory, writers: int, readers: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"weight/{i}": torch.randn(shape) for i, shape in enumerate(SHAPES)}
    write(folder, tensors, writers)
    with Shards(folder) as shards:
        for key, value in tensors.items():
            if not value.ndim:
                assert torch.equal(shards.read(key, (), (), ()), value)
                continue
            rest = tuple(value.shape[1:])
            parts = [
                shards.read(key, tuple(value.shape), (first, *(0 for _ in rest)), (rows, *rest))
                for first, rows in bounds(value.shape[0], readers)
            ]
            assert torch.equal(torch.cat(parts), value)


@pytest.mark.parametrize("damage", ["lost part", "other shape", "outside", "no index", "no tensor"])
def test_shards_that_do_not_hold_a_tensor_are_an_error_of_one_line(tmp_path: Path, damage: str) -> None:
    write(tmp_path, {"weight/a": torch.randn(6, 2)}, 3)
    index = json.loads((tmp_path / "shards.json").read_text(encoding="utf-8"))
    entry = index["tensors"]["weight/a"]
    if damage == "lost part":
        entry["parts"].pop()
    elif damage == "other shape":
        entry["shape"] = [6, 3]
    elif damage == "outside":
        entry["parts"][0]["file"] = "../elsewhere.safetensors"
    elif damage == "no tensor":
        index["tensors"] = {}
    (tmp_path / "shards.json").write_text("{" if damage == "no index" else json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"^[^\n]*resume from another checkpoint[^\n]*$"), Shards(tmp_path) as shards:
        shards.read("weight/a", (6, 2), (0, 0), (6, 2))
