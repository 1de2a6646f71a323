"""A run's folder as values: whatever of it is there, in full or in part."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsft.errors import UserError
from agentsft.recipe import load_recipe

RUN_INFO = "run.json"
"""Machine, versions and the run's arithmetic, as `train.card.write_run_info` leaves them."""


@dataclass(frozen=True)
class RunFolder:
    """What a run left. Lists and mappings are empty where a file is absent; `unread` counts lines that are no JSON.

    `steps` and `evaluations` are in the order of their steps, one for each step: the last that the file has.
    """

    name: str
    path: Path
    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    unread: dict[str, int] = field(default_factory=dict)


def read_runs(paths: list[Path]) -> list[RunFolder]:
    """The runs in `paths`, named by their folders, with as many parents as tell them apart.

    Raises UserError for a path that is no run's folder, or is given twice.
    """
    resolved = [path.resolve() for path in paths]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise UserError(f"{paths[number]}: named twice; name each run once.")
    return [read_run(path, name) for path, name in zip(paths, _names(resolved), strict=True)]


def read_run(path: Path, name: str | None = None) -> RunFolder:
    """The run in the folder `path`. Raises UserError where there is none."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name the output folder of a run.")
    if not any((path / file).is_file() for file in ("metrics.jsonl", "evaluations.jsonl", "recipe.yaml")):
        raise UserError(f"{path}: no run's folder (no metrics.jsonl, no recipe.yaml); name the output of a run.")
    read = {file: _rows(path / f"{file}.jsonl") for file in ("metrics", "evaluations", "ledger", "duplicates")}
    steps, evaluations = (_by_step(read[file][0]) for file in ("metrics", "evaluations"))
    recipe, info = _recipe(path / "recipe.yaml"), _object(path / RUN_INFO)
    return RunFolder(
        name=name or path.resolve().name,
        path=path,
        steps=steps,
        evaluations=evaluations,
        ledger=read["ledger"][0],
        duplicates=read["duplicates"][0],
        recipe=recipe,
        info=info,
        finished=_finished(path, steps, recipe, info),
        unread={f"{file}.jsonl": bad for file, (_, bad) in read.items() if bad},
    )


def _names(paths: list[Path]) -> list[str]:
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = [os.sep.join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects in a JSONL file, and how many lines hold none: a run that goes on may be writing its last one."""
    rows, bad = [], 0
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            bad += 1
    return rows, bad


def _by_step(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    steps = {row["step"]: row for row in rows if type(row.get("step")) is int}
    return [steps[step] for step in sorted(steps)]


def _recipe(path: Path) -> dict[str, Any]:
    try:
        return load_recipe(path) if path.is_file() else {}
    except UserError:  # half-written, or changed since: the curves do not need it
        return {}


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _finished(path: Path, steps: list[dict[str, Any]], recipe: dict[str, Any], info: dict[str, Any]) -> bool:
    """Whether all steps are done and a model stands in the folder."""
    if not steps or not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return False
    last = steps[-1]
    wanted = recipe.get("max_steps") or info.get("steps")
    if isinstance(wanted, int):
        return last["step"] >= wanted
    epochs, done = recipe.get("num_train_epochs"), last.get("epoch")
    return not isinstance(epochs, (int, float)) or not isinstance(done, (int, float)) or done >= epochs - 1e-6
