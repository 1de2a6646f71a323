"""How things look in a terminal: consoles, colours of weights, tables."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ZERO = "grey50"


def console(stderr: bool = False, record: bool = False) -> Console:
    """A console for people. In a pipe it keeps long lines whole, and progress, which goes to stderr, stays out."""
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else int(os.environ.get("COLUMNS", 120))
    quiet = stderr and not file.isatty()
    return Console(stderr=stderr, record=record, width=width, highlight=False, soft_wrap=False, quiet=quiet)


def recording_console(width: int = 120) -> Console:
    """A console that writes nowhere and can be exported as HTML."""
    return Console(
        file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", highlight=False
    )


def weight_style(weight: float, odd: bool = False) -> str:
    """Grey at 0, blue below 1, green at 1, then yellow and red as weights grow; two shades tell tokens apart."""
    if weight <= 0:
        return "grey46" if odd else "grey58"
    if weight < 1:
        return "black on sky_blue2" if odd else "black on sky_blue1"
    if weight == 1:
        return "black on dark_sea_green3" if odd else "black on dark_sea_green2"
    if weight <= 2:
        return "black on gold3" if odd else "black on light_goldenrod2"
    return "black on light_coral" if odd else "black on light_salmon1"


def legend(weights: Iterable[float]) -> Text:
    """One sample of each weight's colour."""
    line = Text("weight ")
    for weight in sorted(set(weights)):
        line.append(f" {weight:g} ", weight_style(weight)).append(" ")
    return line


def table(title: str, columns: list[str], rows: Iterable[Iterable[Any]], right: Iterable[int] = ()) -> Table:
    """A plain table; columns numbered in `right` are aligned to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    to_right = set(right)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number in to_right else "left", overflow="fold")
    for row in rows:
        made.add_row(*[cell if isinstance(cell, Text) else str(cell) for cell in row])
    return made


_CONTROL = {
    **{code: chr(0x2400 + code) for code in range(0x20) if code != 0x0A},
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),  # to some terminals as good as escape sequences
    0x7F: "\u2421",
    0x09: "→   ",
}


def printable(text: str) -> str:
    """`text` with control characters as symbols: untrusted text must not steer a terminal."""
    return text.translate(_CONTROL)


def share(part: int, whole: int) -> str:
    """A share as per cent, `-` of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "-"
