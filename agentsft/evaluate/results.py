"""results.jsonl, one object a turn, each on its way to the disk at once, and eval.json, the summary."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agentsft.errors import UserError
from agentsft.evaluate.take import EvalTurn
from agentsft.train.metrics import RowsFile

Key = tuple[str, int, str]
"""Source and message of a turn, and the hash of its prompt."""


def key_of(turn: EvalTurn) -> Key:
    """What makes a turn the one that a line of results.jsonl tells of."""
    return turn.source, turn.message, turn.prompt_hash


def open_results(
    output: Path, turns: Iterable[EvalTurn], made_by: dict[str, Any], resume: bool, note: Callable[[str], None]
) -> tuple[RowsFile, dict[Key, dict[str, Any]]]:
    """The results file, and what it already holds of `turns` by key: nothing unless `resume` is set.

    `made_by` are the settings and the model's marks, kept in eval.json. Raises UserError where the folder cannot be
    written, and where `resume` finds results of other settings or another model.
    """
    summary = output / "eval.json"
    if resume and (output / "results.jsonl").exists():
        _check(summary, made_by)
    known = {key_of(turn) for turn in turns} if resume else set()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: {output} cannot be written ({error}); name another folder.") from None
    seen: set[Key] = set()

    def keep(row: dict[str, Any]) -> bool:
        key = row.get("source"), row.get("message"), row.get("prompt_sha256")
        if key not in known or key in seen or not isinstance(row.get("verdicts"), dict):
            return False
        seen.add(key)
        return True

    file = RowsFile(output / "results.jsonl", keep, note)
    write_summary(output, {"made_by": made_by})
    return file, {(row["source"], row["message"], row["prompt_sha256"]): row for row in file.kept}


def _check(summary: Path, made_by: dict[str, Any]) -> None:
    try:
        saved = json.loads(summary.read_text(encoding="utf-8"))["made_by"]
        before = {**saved["settings"], **saved["model_files"], "agentsft": saved["agentsft"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{summary}: does not say how the results beside it were made; leave out --resume to start afresh."
        ) from None
    now = {**made_by["settings"], **made_by["model_files"], "agentsft": made_by["agentsft"]}
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        raise UserError(
            f"{summary.parent}: these results were made otherwise; changed: {', '.join(changed)}. "
            "Restore that, name another --output, or leave out --resume to start afresh."
        )


def write_summary(output: Path, summary: dict[str, Any]) -> None:
    """eval.json, whole or as it was before. Raises UserError where it cannot be written."""
    aside = output / "eval.json.tmp"
    try:
        aside.write_text(json.dumps(summary, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(aside, output / "eval.json")
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error}); make room, or name another --output.") from None
