"""--help as text that fits its terminal: flags are never cut short, and below 60 columns stand above their help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from agentsft.cli.guide import PANELS, epilog

_NARROW = 60
_LAST = ("Options", "General")

Section = tuple[str, list[tuple[str, str]]]
"""A title, and rows of what is typed and what it does."""


class Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        print_help(self, ctx)


class Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        print_help(self, ctx)


def print_help(command: Any, ctx: Any) -> None:
    """Usage, what the command does, its arguments, flags or commands in groups, examples or exit codes."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from agentsft.cli.display import console

    screen = console()
    screen.print(Text.assemble(("usage: ", "bold"), usage(command, ctx)))
    screen.print(Padding(Text(command.help or ""), (1, 0, 0, 0)))
    found = sections(command)
    for title, rows in [*found, *epilog(None if isinstance(command, TyperGroup) else command.name)]:
        screen.print(Text(f"\n{title}", "bold"))
        if title == "Examples" or screen.width < _NARROW:
            for typed, does in rows:
                screen.print(Padding(Text(typed, "cyan"), (0, 0, 0, 2)))
                if does:
                    screen.print(Padding(Text(does), (0, 0, 0, 6)))
            continue
        made = Table.grid(padding=(0, 2, 0, 0))
        made.add_column(style="cyan", width=min(max(len(typed) for typed, _ in rows), screen.width * 45 // 100))
        made.add_column(ratio=1)
        for typed, does in rows:
            made.add_row(Text(typed), Text(does))
        screen.print(Padding(made, (0, 0, 0, 2)))


def usage(command: Any, ctx: Any) -> str:
    """The command's name and what follows it."""
    arguments = [_argument(param) for param in command.params if param.param_type_name == "argument"]
    rest = ["COMMAND ..."] if isinstance(command, TyperGroup) else arguments
    return " ".join([ctx.command_path, "[OPTIONS]", *rest])


def sections(command: Any) -> list[Section]:
    """Arguments, flags by group, and a group's commands; without what is hidden."""
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [(_argument(param), param.help or "") for param in shown if param.param_type_name == "argument"]
    found: dict[str, list[tuple[str, str]]] = {"Arguments": arguments} if arguments else {}
    if isinstance(command, TyperGroup):
        for panel in [*PANELS, "More"]:
            members = [one for one in command.commands.values() if _panel(one) == panel and not one.hidden]
            order = PANELS.get(panel, ())
            members.sort(key=lambda one: order.index(one.name) if one.name in order else len(order))
            if members:
                found[panel] = [(one.name or "", (one.help or "").strip()) for one in members]
    for param in sorted(shown, key=lambda param: _panel(param) in _LAST):
        if param.param_type_name == "option":
            found.setdefault(_panel(param), []).append((_typed(param), _does(param)))
    if "Options" in found and "General" in found:
        found["General"] = found.pop("General")
    found.setdefault("General", []).append(("-h, --help", "Show this and exit."))
    return list(found.items())


def _panel(param: Any) -> str:
    return getattr(param, "rich_help_panel", None) or "Options"


def _argument(param: Any) -> str:
    name = (param.metavar or param.name or "").upper().strip("[]{}").replace("...", "")
    name += "..." if param.nargs == -1 else ""
    return name if param.required else f"[{name}]"


def _typed(param: Any) -> str:
    """`-m, --model TEXT`, `--[no-]mask-history`."""
    long = [name for name in param.opts if name.startswith("--")]
    short = [name for name in param.opts if not name.startswith("--")]
    if any(name.startswith("--no-") for name in param.secondary_opts):
        long = [f"--[no-]{name[2:]}" for name in long]
    typed = ", ".join([*short, *long])
    if getattr(param, "is_flag", False):
        return typed
    number = {int: "N", float: "X"}.get(type(param.default))
    return f"{typed} {param.metavar or number or (long or short)[0].lstrip('-').upper()}"


def _does(param: Any) -> str:
    default = param.default
    shown = getattr(param, "show_default", False) and default not in (None, "", False) and not callable(default)
    return f"{param.help or ''} [default: {default}]" if shown else param.help or ""
