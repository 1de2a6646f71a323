"""How every command behaves: its general flags, before and behind its name, and guesses for mistyped names."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from agentsft.cli.guide import PANEL_OF
from agentsft.cli.help import Command, Group
from agentsft.cli.options import SETTINGS
from agentsft.config import TrainConfig
from agentsft.elsewhere import called_here
from agentsft.errors import nearest

LONGEST_LINE = 800


class App(typer.Typer):
    """A Typer app whose commands share their manners; `command` is used as Typer's own."""

    def __init__(self, **kwargs: Any) -> None:
        settings = {
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": _with_hyphens,
        }
        super().__init__(
            cls=Group,
            no_args_is_help=True,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings=settings,
            **kwargs,
        )

    def command(self, name: str | None = None, **kwargs: Any) -> Callable:
        def register(function: Callable) -> Callable:
            called = name or function.__name__.replace("_", "-")
            own = {"cls": Command, "rich_help_panel": PANEL_OF.get(called, "More")}
            super(App, self).command(called, **{**own, **kwargs})(with_general_flags(function))
            return function

        return register

    def callback(self, **kwargs: Any) -> Callable:
        return lambda function: super(App, self).callback(**kwargs)(with_general_flags(function))


def with_general_flags(function: Callable) -> Callable:
    """The function with --quiet, --verbose and --debug among its flags, which act by themselves."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    own = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in parameters]
    general = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag)
               for name, flag in _GENERAL.items()]  # fmt: skip

    def run(**values: Any) -> Any:
        return function(**{name: value for name, value in values.items() if name not in _GENERAL})

    made: Any = run
    made.__name__, made.__doc__ = function.__name__, function.__doc__
    made.__signature__ = inspect.Signature([*own, *general])
    made.__annotations__ = {p.name: p.annotation for p in [*own, *general]}
    return made


def one_line(error: Exception) -> str:
    """An error's message as one line of bounded length, with a guess at what was meant; empty where all is said."""
    from agentsft.cli.display import printable

    message = getattr(error, "format_message", error.__str__)()
    message = _with_guess(error, message.replace("Value error, ", ""))
    message = printable(" ".join(message.split("\n")))
    if len(message) > LONGEST_LINE:
        message = f"{message[: LONGEST_LINE // 2]} ... {message[-LONGEST_LINE // 4 :]}"
    command = getattr(getattr(error, "ctx", None), "command_path", None)
    return f"{message.rstrip('.')}; see {command} --help." if message and command else message


def _with_guess(error: Exception, message: str) -> str:
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and isinstance(option, str):
        known = tuple(field.name for field in fields(TrainConfig))
        elsewhere = called_here(option.partition("=")[0], known)
        possible = [name for name in getattr(error, "possibilities", None) or () if name.startswith("--")]
        return f"No such option: {option[:100]}.{elsewhere or nearest(option, possible) or ''}"
    if choice := re.search(r"'([^']*)' is not one of (.+)\.?$", message):
        choices = re.findall(r"'([^']+)'", choice[2])
        return f"{message.rstrip('.')}.{nearest(choice[1], choices)}"
    return message


def _with_hyphens(token: str) -> str:
    """--loss_scale is --loss-scale: recipes and other trainers write underscores. Values keep theirs."""
    return token.replace("_", "-") if token.removeprefix("no_") in SETTINGS else token


def _quiet(given: bool) -> None:
    if not given:
        return
    from agentsft.cli import display

    display.level = display.QUIET
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def _verbose(given: bool) -> None:
    if not given:
        return
    import logging

    from agentsft.cli import display

    display.level = display.VERBOSE
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")  # on stderr


def _debug(given: bool) -> None:
    _verbose(given)
    if given:
        os.environ["AGENTSFT_DEBUG"] = "1"


def _flag(names: list[str], callback: Callable, help: str) -> Any:
    option = typer.Option(*names, callback=callback, is_eager=True, help=help, rich_help_panel="General")
    return Annotated[bool, option]


_GENERAL = {
    "quiet": _flag(["--quiet", "-q"], _quiet, "Only results and errors: no progress, no log of a run."),
    "verbose": _flag(["--verbose", "-v"], _verbose, "Say more on stderr: settings, time, what libraries say."),
    "debug": _flag(["--debug"], _debug, "Show tracebacks, and what --verbose shows."),
}
