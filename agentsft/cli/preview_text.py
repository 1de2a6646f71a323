"""Rows in a terminal: tokens in the colour of their weight, or as a table, and what a second strategy changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from agentsft.cli.display import legend, printable, share, table, weight_style
from agentsft.encode.prepare import Preparer
from agentsft.encode.view import TreeView, tree_view
from agentsft.page.compare import Comparison, compare
from agentsft.types import LABELS, Example, Refusal, Segment

_UNTRAINED = "not trained"


def show_rows(screen: Console, preparer: Preparer, examples: Iterable[Example], tokens: bool) -> None:
    """Print each example, its counts, and the counts of all."""
    total: Counter[tuple[str, str]] = Counter()
    straddling = trees = split = refused = shown = 0
    for example in examples:
        shown += 1
        _rule(screen, example)
        if example.refusal is not None or example.tree is None:
            refused += 1
            screen.print(_refusal(example.refusal))
            continue
        view = tree_view(preparer, example)
        screen.print(_token_table(view) if tokens else _coloured(view, plain=screen.color_system is None))
        counts = _count_tokens(view)
        screen.print(_counts("tokens of this row", counts, len(view.ids), example.split_tokens, example.straddling))
        total += counts
        straddling += example.straddling
        trees += len(view.ids)
        split += example.split_tokens
    if shown - refused > 1:
        screen.print(Rule(style="dim"))
        screen.print(_counts(f"tokens of {shown - refused} rows", total, trees, split, straddling))
    if refused:
        screen.print(Text(f"{refused} of {shown} rows refused", "red"))
    if not shown:
        screen.print("no such row.")


def show_comparisons(
    screen: Console, preparer: Preparer, pairs: Iterable[tuple[Example, Example]], scales: list[str], tokens: bool
) -> None:
    """Print what the second of two strategies changes in each row: pairs of examples, and the strategies' names."""
    total: Counter[tuple[str, float, float]] = Counter()
    shown = compared = 0
    for one, two in pairs:
        shown += 1
        _rule(screen, one)
        found = compare(preparer, one, two)
        for scale, example in zip(scales, (one, two), strict=True) if one.refusal != two.refusal else [("", one)]:
            if example.refusal is not None:
                screen.print(_refusal(example.refusal, f" under {printable(scale)}" if scale else ""))
        if found is None:
            continue
        compared += 1
        if found.changed.any():
            screen.print(_changed_table(found, scales) if tokens else _changes(found))
        groups = found.groups()
        screen.print(_change_counts("weights of this row", groups, scales))
        total += groups
    if compared > 1:
        screen.print(Rule(style="dim"))
        screen.print(_change_counts(f"weights of {compared} rows", total, scales))
    if not shown:
        screen.print("no such row.")


def _rule(screen: Console, example: Example) -> None:
    screen.print(Rule(Text(f"row {example.index}  {printable(example.source)}", "bold"), align="left"))


def _refusal(refusal: Refusal | None, under: str = "") -> Text:
    assert refusal is not None
    where = "" if refusal.message is None else f" message {refusal.message}:"
    return Text.assemble((f"refused{under}: {refusal.reason}", "bold red"), f"{where} {printable(refusal.detail)}")


def _segments(view: TreeView, number: int) -> Iterator[tuple[Segment, range]]:
    """The segments of a path's own tokens, each with its tokens' positions in the tree."""
    branch, own = view.branches[number], view.own(number)
    owners = branch.owners[branch.shared :]
    starts = np.flatnonzero(np.diff(owners, prepend=-1)).tolist()
    for low, high in zip(starts, [*starts[1:], len(own)], strict=True):
        yield branch.segments[owners[low]], own[low:high]


def _name(segment: Segment) -> str:
    return f"{segment.kind} {segment.message}" if segment.message >= 0 else segment.kind


def _place(view: TreeView, number: int, position: int) -> int:
    """How many tokens stand before the tree's `position` on path `number`."""
    branch = view.branches[number]
    return branch.shared + position - branch.start


def _label(label: int) -> str:
    return LABELS[label] if label >= 0 else ""


def _coloured(view: TreeView, plain: bool) -> RenderableType:
    """The paths as text, each token in its weight's colour; without colours, with borders and weights written out."""
    parts: list[RenderableType] = []
    for number, branch in enumerate(view.branches):
        if number:
            parts.append(Text(f"\n├─ branch {number}: {branch.shared} tokens shared with the paths above", "bold cyan"))
        parts.append(_path_text(view, number, plain))
    parts.append(Text.assemble("\n", legend(view.weights.tolist())))
    return Group(*parts)


def _path_text(view: TreeView, number: int, plain: bool) -> Text:
    """The tokens behind the shared ones, with a tag before each segment; tokens alternate between two shades."""
    text = Text()
    weight = 0.0
    for segment, positions in _segments(view, number):
        if segment.kind != "suffix":
            _heading(text, _name(segment), "bold magenta")
        for position in positions:
            here = float(view.weights[position])
            if plain:
                text.append(f"{{{here:g}}}" if here != weight else "│" if text.plain[-1:] != "\n" else "")
                weight = here
            style = weight_style(here, odd=_place(view, number, position) % 2 == 1)
            _append_token(text, view.texts[position], style)
    return text


def _heading(text: Text, words: str, style: str) -> None:
    text.append("\n" if text.plain and not text.plain.endswith("\n") else "")
    text.append(words, style)
    text.append("\n")


def _append_token(text: Text, token: str, style: str) -> None:
    lines = (printable(token) or "·").split("\n")
    for number, line in enumerate(lines):
        text.append(line, style)
        if number < len(lines) - 1:
            text.append("⏎", style).append("\n")


def _token_table(view: TreeView) -> RenderableType:
    parts: list[RenderableType] = []
    for number, branch in enumerate(view.branches):
        rows = [
            (
                _place(view, number, k),
                int(view.ids[k]),
                _cell(view.texts[k], float(view.weights[k])),
                _name(segment),
                _label(view.label_ids[k]),
                f"{view.weights[k]:g}",
            )
            for segment, positions in _segments(view, number)
            for k in positions
        ]
        title = f"path {number}" + (f", behind {branch.shared} shared tokens" if branch.shared else "")
        parts.append(table(title, ["position", "id", "text", "segment", "label", "weight"], rows, right=(0, 1, 5)))
    return Group(*parts)


def _cell(token: str, weight: float) -> Text:
    return Text(printable(token).replace("\n", "⏎") or "·", weight_style(weight))


def _count_tokens(view: TreeView) -> Counter[tuple[str, str]]:
    """Tokens of the tree, each counted once, by (segment kind, label or "not trained")."""
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(len(view.branches)):
        for segment, positions in _segments(view, number):
            for label in view.label_ids[positions.start : positions.stop].tolist():
                counts[segment.kind, _label(label) or _UNTRAINED] += 1
    return counts


def _counts(title: str, counts: Counter[tuple[str, str]], tree: int, split: int, straddling: int) -> RenderableType:
    trained = sum(count for (_, label), count in counts.items() if label != _UNTRAINED)
    rows = [(kind, label, count, share(count, tree)) for (kind, label), count in sorted(counts.items())]
    summary = f"{trained} of {tree} tokens trained ({share(trained, tree)})"
    if split > tree:
        summary += f"; {split} tokens as separate sequences, {split / tree:.2f} times the tree"
    if straddling:
        summary += f"; {straddling} straddle two weights and take the larger"
    return Group(table(title, ["segment", "label", "tokens", "share"], rows, right=(2, 3)), Text(summary), Text())


def _changes(found: Comparison) -> RenderableType:
    """The segments in which a weight changes, each such stretch behind its two weights, the rest of them dim."""
    text = Text()
    changed, view = found.changed, found.view
    same = 0
    for number in range(len(view.branches)):
        for segment, positions in _segments(view, number):
            if not changed[positions.start : positions.stop].any():
                same += len(positions)
                continue
            if same:
                _heading(text, f"… {same} tokens as before", "dim")
            same = 0
            branch = f" (branch {number})" if number else ""
            if segment.kind != "suffix" or not text.plain or text.plain.endswith("as before\n"):
                _heading(text, _name(segment) + branch, "bold magenta")
            before = (0.0, 0.0)
            for k in positions:
                weights = (float(view.weights[k]), float(found.weights[k]))
                if changed[k] and weights != before:
                    text.append(f"{weights[0]:g}→{weights[1]:g}", "bold reverse")
                before = weights
                style = weight_style(weights[1], odd=k % 2 == 1) if changed[k] else "dim"
                _append_token(text, view.texts[k], f"{style} strike" if changed[k] and not weights[1] else style)
    if same:
        _heading(text, f"… {same} tokens as before", "dim")
    return Group(text, Text.assemble("\n", legend(np.concatenate([view.weights, found.weights]).tolist())))


def _changed_table(found: Comparison, scales: list[str]) -> RenderableType:
    view, changed = found.view, found.changed
    rows = [
        (
            number,
            _place(view, number, k),
            int(view.ids[k]),
            _cell(view.texts[k], float(found.weights[k])),
            _name(segment),
            _label(max(view.label_ids[k], found.label_ids[k])),
            f"{view.weights[k]:g}",
            f"{found.weights[k]:g}",
        )
        for number in range(len(view.branches))
        for segment, positions in _segments(view, number)
        for k in positions
        if changed[k]
    ]
    columns = ["path", "position", "id", "text", "segment", "label", *map(printable, scales)]
    return table("tokens whose weight changes", columns, rows, right=(0, 1, 2, 6, 7))


def _change_counts(title: str, groups: Counter[tuple[str, float, float]], scales: list[str]) -> RenderableType:
    rows = [
        (label, f"{one:g}", Text(f" {two:g} ", weight_style(two)), count, "" if one == two else "changed")
        for (label, one, two), count in sorted(groups.items())
    ]
    changed = sum(count for (_, one, two), count in groups.items() if one != two)
    before, after = (sum(pair[n] * count for (_, *pair), count in groups.items()) for n in (0, 1))
    summary = f"{changed} of {sum(groups.values())} tokens change their weight; weight sum {before:g} → {after:g}"
    columns = ["label", *map(printable, scales), "tokens", ""]
    return Group(table(title, columns, rows, right=(1, 2, 3)), Text(summary), Text())
