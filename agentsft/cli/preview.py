"""`agentsft preview`: rows with every token coloured by its weight, as text, as a table, as JSON or as a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from agentsft.cli.display import console
from agentsft.cli.preview_text import show_comparisons, show_rows
from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows
from agentsft.encode.prepare import Preparer
from agentsft.encode.view import tree_view
from agentsft.errors import UserError
from agentsft.page.compare import compare, comparison_json
from agentsft.page.pack import Packer
from agentsft.page.write import page_lines
from agentsft.types import Example, Row

_FORMATS = ("text", "json", "html")
_Pairs = Iterable[tuple[Example, Example | None]]


def run_preview(
    config: DataConfig,
    count: int,
    rows: list[int],
    tokens: bool,
    output_format: str,
    out: Path | None,
    compare_loss_scale: str | None = None,
) -> int:
    """Show the first `count` rows, or those numbered in `rows`. Returns the exit code.

    With `compare_loss_scale` each row is shown under that strategy beside the settings' own.
    """
    if output_format not in _FORMATS:
        raise UserError(f"--format is one of {', '.join(_FORMATS)}; not {output_format!r}.")
    if output_format == "text" and out is not None:
        raise UserError("--out goes with --format json or html.")
    preparer = load_preparer(config)
    examples: _Pairs = zip(preparer.prepare(_chosen(load_rows(config), count, rows)), repeat(None), strict=False)
    if compare_loss_scale is not None:
        other = load_preparer(replace(config, loss_scale=compare_loss_scale), preparer.tokenizer)
        examples = _pairs(preparer, other, _chosen(load_rows(config), count, rows))
    scales = [config.loss_scale] + ([] if compare_loss_scale is None else [compare_loss_scale])
    if output_format == "json":
        lines = (json.dumps(_json(preparer, pair, scales), ensure_ascii=False) for pair in examples)
        _write(lines, out)
    elif output_format == "html":
        packer = Packer()
        packed = (_packed(packer, preparer, pair) for pair in examples)
        _write(page_lines(packer, packed, _about(config, scales, tokens)), out)
    elif compare_loss_scale is None:
        show_rows(console(), preparer, (example for example, _ in examples), tokens)
    else:
        show_comparisons(console(), preparer, ((a, b) for a, b in examples if b is not None), scales, tokens)
    return 0


def preview_json(preparer: Preparer, example: Example) -> dict[str, Any]:
    """One row as the JSON that `preview --format json` promises."""
    refusal = example.refusal
    tree = example.tree
    return {
        "row": example.index,
        "source": example.source,
        "refused": refusal and {"reason": refusal.reason, "message": refusal.message, "detail": refusal.detail},
        "turns": [
            {
                "message": turn.message,
                "prompt": turn.prompt,
                "response": turn.response,
                "suffix": turn.suffix,
                "spans": [
                    {"text": turn.response[span.start : span.end], "weight": span.weight, "label": span.label}
                    for span in turn.spans
                ],
                "suffix_weight": turn.suffix_weight,
            }
            for turn in example.turns
        ],
        "sequences": [
            {
                "input_ids": sequence.input_ids.tolist(),
                "labels": sequence.labels.tolist(),
                "loss_scale": sequence.loss_scale.tolist(),
                "position_ids": sequence.position_ids.tolist(),
                "segments": [
                    {"kind": segment.kind, "text": segment.text, "message": segment.message}
                    for segment in sequence.segments
                ],
            }
            for sequence in preparer.sequences(example)
        ],
        "tokens": {
            "tree": 0 if tree is None else len(tree),
            "split": example.split_tokens,
            "trained": 0 if tree is None else len(tree.source),
            "straddling": example.straddling,
        },
        "lost": example.lost
        and {"reason": example.lost.reason, "turns": example.lost_turns, "tokens": example.lost_tokens},
    }


def _chosen(rows: Iterator[Row], count: int, numbers: list[int]) -> Iterator[Row]:
    if not numbers:
        return islice(rows, count)
    return (row for row in islice(rows, max(numbers) + 1) if row.index in set(numbers))


def _pairs(preparer: Preparer, other: Preparer, rows: Iterator[Row]) -> _Pairs:
    """Each row under both strategies; rows are read once, a batch at a time."""
    while batch := list(islice(rows, 64)):
        yield from zip(preparer.prepare(batch), other.prepare(batch), strict=True)


def _json(preparer: Preparer, pair: tuple[Example, Example | None], scales: list[str]) -> dict[str, Any]:
    one, two = pair
    made = preview_json(preparer, one)
    if two is not None:
        made["compare"] = comparison_json(scales[1], one, two, compare(preparer, one, two))
    return made


def _packed(packer: Packer, preparer: Preparer, pair: tuple[Example, Example | None]) -> str:
    one, two = pair
    if two is None:
        return packer.add(one, None if one.tree is None else tree_view(preparer, one))
    found = compare(preparer, one, two)
    if found is None:
        return packer.add(one, None)
    example = replace(found.example, refusal=one.refusal)
    return packer.add(example, found.view, (found.label_ids, found.weights, two))


def _about(config: DataConfig, scales: list[str], tokens: bool) -> dict[str, Any]:
    settings = [("data", ", ".join(config.data)), ("model", config.model), ("loss scale", " → ".join(scales))]
    settings += [("mask history", "yes")] * config.mask_history
    settings += [("chat template", str(config.chat_template))] * bool(config.chat_template)
    settings += [("agent format", str(config.agent_format))] * bool(config.agent_format)
    return {"settings": settings, "scales": scales, "view": "tokens" if tokens else "text"}


def _write(lines: Iterable[str], out: Path | None) -> None:
    if out is None:
        for line in lines:
            print(line)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
