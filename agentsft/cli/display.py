"""How things look in a terminal: consoles, colours of weights, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentsft.page.scale import SCALE, step_of

ZERO = "grey50"


QUIET, NORMAL, VERBOSE = -1, 0, 1
level = NORMAL
"""How much is said, as --quiet and --verbose set it."""
_mute = False


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the program ends as others do when what reads them is gone; see app.main


def console(stderr: bool = False, record: bool = False) -> Console:
    """A console for people. In a pipe it keeps long lines whole, and progress, which goes to stderr, stays out.

    With NO_COLOR it writes no escape sequences at all, so that whoever draws with colours sees that there are none.
    """
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else _columns()
    quiet = (not file.isatty() or level == QUIET) if stderr else _mute
    colours: Any = None if os.environ.get("NO_COLOR") else "auto"
    return _Console(
        stderr=stderr, record=record, width=width, highlight=False, soft_wrap=False, quiet=quiet, color_system=colours
    )


def mute_if_quiet() -> None:
    """For commands whose result is a folder: with --quiet nothing is printed but errors."""
    global _mute
    _mute = level == QUIET


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else 120


def weight_style(weight: float, odd: bool = False) -> str:
    """Grey at 0, from blue to orange as weights grow (`page/scale.py`); two shades tell neighbouring tokens apart."""
    step = SCALE[step_of(weight)]
    if not step.light:
        return "grey46" if odd else "grey58"
    return f"black on {step.odd if odd else step.light}"


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
