"""`agentsft preview`: rows with every token coloured by its weight, as a table of tokens, as JSON or as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from agentsft.cli.display import console, legend, printable, recording_console, share, table, weight_style
from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows
from agentsft.encode.prepare import Preparer
from agentsft.encode.view import PathView, TokenView, count_tokens, path_views
from agentsft.errors import UserError
from agentsft.types import Example, Row

_FORMATS = ("text", "json", "html")


def run_preview(
    config: DataConfig, count: int, rows: list[int], tokens: bool, output_format: str, out: Path | None
) -> int:
    """Show the first `count` rows, or those numbered in `rows`. Returns the exit code."""
    if output_format not in _FORMATS:
        raise UserError(f"--format is one of {', '.join(_FORMATS)}; not {output_format!r}.")
    preparer = load_preparer(config)
    chosen = _chosen(load_rows(config), count, rows)
    examples = preparer.prepare(chosen)
    if output_format == "json":
        lines = (json.dumps(preview_json(preparer, example), ensure_ascii=False) for example in examples)
        _write(lines, out)
        return 0
    screen = recording_console() if output_format == "html" else console()
    _show(screen, preparer, examples, tokens)
    if output_format == "html":
        _write([screen.export_html()], out)
    elif out is not None:
        raise UserError("--out goes with --format json or html.")
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


def _show(screen: Console, preparer: Preparer, examples: Iterator[Example], tokens: bool) -> None:
    total: Counter[tuple[str, str]] = Counter()
    straddling = trees = split = refused = shown = 0
    for example in examples:
        shown += 1
        screen.print(Rule(Text(f"row {example.index}  {example.source}", "bold"), align="left"))
        if example.refusal is not None or example.tree is None:
            refused += 1
            screen.print(_refusal(example))
            continue
        views = path_views(preparer, example)
        screen.print(_token_table(views) if tokens else _coloured(views, plain=screen.color_system is None))
        counts = count_tokens(views)
        screen.print(_counts("tokens of this row", counts, len(example.tree), example.split_tokens, example.straddling))
        total += counts
        straddling += example.straddling
        trees += len(example.tree)
        split += example.split_tokens
    if shown - refused > 1:
        screen.print(Rule(style="dim"))
        screen.print(_counts(f"tokens of {shown - refused} rows", total, trees, split, straddling))
    if refused:
        screen.print(Text(f"{refused} of {shown} rows refused", "red"))
    if not shown:
        screen.print("no such row.")


def _refusal(example: Example) -> Text:
    refusal = example.refusal
    assert refusal is not None
    where = "" if refusal.message is None else f" message {refusal.message}:"
    return Text.assemble((f"refused: {refusal.reason}", "bold red"), f"{where} {refusal.detail}")


def _coloured(views: list[PathView], plain: bool) -> RenderableType:
    """The paths as text, each token in its weight's colour; without colours, with borders and weights written out."""
    parts: list[RenderableType] = []
    for number, view in enumerate(views):
        if number:
            parts.append(Text(f"\n├─ branch {number}: {view.shared} tokens shared with the paths above", "bold cyan"))
        parts.append(_path_text(view, plain))
    weights = [token.weight for view in views for token in view.tokens]
    parts.append(Text.assemble("\n", legend(weights)))
    return Group(*parts)


def _path_text(view: PathView, plain: bool) -> Text:
    """The tokens behind the shared ones, with a tag before each segment; tokens alternate between two shades."""
    text = Text()
    segment: tuple[str, int] | None = None
    weight = 0.0
    for token in view.tokens[view.shared :]:
        if (token.kind, token.message) != segment:
            segment = (token.kind, token.message)
            if token.kind != "suffix":
                text.append("\n" if text.plain and not text.plain.endswith("\n") else "")
                text.append(f"{token.kind} {token.message}" if token.message >= 0 else token.kind, "bold magenta")
                text.append("\n")
        if plain:
            text.append(f"{{{token.weight:g}}}" if token.weight != weight else "│" if text.plain[-1:] != "\n" else "")
            weight = token.weight
        _append_token(text, token)
    return text


def _append_token(text: Text, token: TokenView) -> None:
    style = weight_style(token.weight, odd=token.position % 2 == 1)
    visible = printable(token.text) or "·"
    lines = visible.split("\n")
    for number, line in enumerate(lines):
        text.append(line, style)
        if number < len(lines) - 1:
            text.append("⏎", style).append("\n")


def _token_table(views: list[PathView]) -> RenderableType:
    parts: list[RenderableType] = []
    for number, view in enumerate(views):
        rows = [
            (
                token.position,
                token.id,
                Text(printable(token.text).replace("\n", "⏎") or "·", weight_style(token.weight)),
                f"{token.kind} {token.message}" if token.message >= 0 else token.kind,
                token.label or "",
                f"{token.weight:g}",
            )
            for token in view.tokens[view.shared :]
        ]
        title = f"path {number}" + (f", behind {view.shared} shared tokens" if view.shared else "")
        parts.append(table(title, ["position", "id", "text", "segment", "label", "weight"], rows, right=(0, 1, 5)))
    return Group(*parts)


def _counts(title: str, counts: Counter[tuple[str, str]], tree: int, split: int, straddling: int) -> RenderableType:
    trained = sum(count for (_, label), count in counts.items() if label != "not trained")
    rows = [(kind, label, count, share(count, tree)) for (kind, label), count in sorted(counts.items())]
    summary = f"{trained} of {tree} tokens trained ({share(trained, tree)})"
    if split > tree:
        summary += f"; {split} tokens as separate sequences, {split / tree:.2f} times the tree"
    if straddling:
        summary += f"; {straddling} straddle two weights and take the larger"
    return Group(table(title, ["segment", "label", "tokens", "share"], rows, right=(2, 3)), Text(summary), Text())


def _write(lines: Any, out: Path | None) -> None:
    if out is None:
        for line in lines:
            print(line)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
