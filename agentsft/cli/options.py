"""Flags from settings: one dataclass field is one flag, so recipe, flags and help cannot part."""

from __future__ import annotations

import enum
import inspect
import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

from agentsft.config import DataConfig

_log = logging.getLogger(__name__)

SETTINGS: set[str] = set()
"""The names of all settings that are flags of some command."""

_METAVARS = {int: "N", float: "X", str: "TEXT", list[str]: "TEXT", dict[str, Any]: "JSON"}
_SHORT = {"data": "-d", "model": "-m", "output": "-o"}


def with_settings(cls: type[DataConfig], *without: str) -> Callable[[Callable], Callable]:
    """Give a command one flag for each setting of `cls` but those named; the function gets those given as `settings`.

    A flag that is not given is absent from `settings`, so that the recipe's value, or the default, stands.
    """

    SETTINGS.update(option.name for option in fields(cls))

    def decorate(command: Callable) -> Callable:
        hints = get_type_hints(command, include_extras=True)
        parameters = inspect.signature(command).parameters.values()
        own = [p.replace(annotation=hints[p.name]) for p in parameters if p.name != "settings"]
        types = get_type_hints(cls)
        flags = [_flag(option, types[option.name]) for option in fields(cls) if option.name not in without]
        names = {flag.name for flag in flags}

        def run(**values: Any) -> Any:
            settings = {k: _plain(v) for k, v in values.items() if k in names and v is not None and v != []}
            _log.info("flags: %s", settings)
            return command(**{k: v for k, v in values.items() if k not in names}, settings=settings)

        made: Any = run
        made.__name__, made.__doc__ = command.__name__, command.__doc__
        made.__signature__ = inspect.Signature([*own, *flags])
        made.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
        return made

    return decorate


def _flag(option: Any, kind: Any) -> inspect.Parameter:
    name = "--" + option.name.replace("_", "-")
    target = next((k for k in get_args(kind) if k is not type(None)), kind) if type(None) in get_args(kind) else kind
    extra: dict[str, Any] = {"help": _help(option), "rich_help_panel": option.metadata["group"], "show_default": False}
    names = [name]
    extra["metavar"] = "WORD" if option.metadata["choices"] else _METAVARS.get(target)
    flag_type: Any = {list[str]: list[str], dict[str, Any]: str}.get(target, target)
    if target is bool:
        names = [f"{name}/--no-{option.name.replace('_', '-')}"]
    elif choices := option.metadata["choices"]:
        flag_type = _choice(option.name, choices)
    if option.name in _SHORT:
        names.append(_SHORT[option.name])
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[flag_type | None, typer.Option(*names, **extra)],
    )


def _choice(name: str, choices: tuple[str, ...]) -> Any:
    """Typer reads choices from enums."""
    return enum.Enum(name, {choice: choice for choice in choices}, type=str)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _help(option: Any) -> str:
    default, text = option.default, option.metadata["help"]
    if choices := option.metadata["choices"]:
        text = f"{text.rstrip('.')}: {', '.join(choices)}."
    if default is True:
        return f"{text} [default: on]"
    shown = default not in (None, "", False) and isinstance(default, (str, int, float))
    return f"{text} [default: {default}]" if shown else text
