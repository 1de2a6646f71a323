"""Writes docs/cli.md from the commands themselves: python docs/site/reference.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from agentsft.cli.app import app
from agentsft.cli.guide import EXAMPLES, EXIT_CODES, PANELS
from agentsft.cli.help import sections, usage

PAGE = Path(__file__).resolve().parents[1] / "cli.md"
HEAD = """\
# Command line

This page is written by `make docs-cli` out of the commands' own `--help`.

General flags stand before or behind the command's name. Flags may be written with underscores, as a recipe's keys
are. Text for people is folded to the terminal's width (120 columns in a pipe, `COLUMNS` says otherwise); `NO_COLOR`
leaves out all colours; progress goes to a terminal alone. `agentsft --install-completion` completes commands and flags
in bash, zsh, fish and PowerShell.
"""


def page() -> str:
    """The whole page as Markdown."""
    program: Any = typer.main.get_command(app)
    parent = program.make_context("agentsft", ["--help"], resilient_parsing=True)
    parts = [HEAD, "## Exit codes\n", _table(("code", "means"), [(str(c), m) for c, m in EXIT_CODES.items()])]
    own = dict(sections(program))
    parts += [_section(title, own[title]) for title in ("Options", "General")]
    names = [name for panel in PANELS.values() for name in panel if name in program.commands]
    for name in [*names, *sorted(set(program.commands) - set(names))]:
        command = program.commands[name]
        context = command.make_context(name, [], parent=parent, resilient_parsing=True)
        parts += [f"## agentsft {name}\n", f"{command.help.strip()}\n", f"    {usage(command, context)}\n"]
        parts += [_section(title, rows) for title, rows in sections(command) if title != "General"]
        parts += ["Examples:\n", "".join(f"    {line}\n" for line in EXAMPLES.get(name, ()))]
    return "\n".join(part for part in parts if part)


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    return _table((title, ""), [(f"`{typed}`", does) for typed, does in rows])


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |\n" for line in lines
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE} is out of date: make docs-cli")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
