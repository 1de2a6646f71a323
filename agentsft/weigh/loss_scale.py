"""What `--loss-scale [BASE+]NAME[+NAME...]` means: which messages are trained, and how much their characters weigh."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, reduce
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from agentsft.errors import UserError, nearest
from agentsft.types import Span
from agentsft.weigh.labels import label_response
from agentsft.weigh.strategy import Pieces, Strategy, multiply
from agentsft.weigh.table import read_table, strategy_from_table

BASES = {
    "default": "Every assistant message.",
    "last_round": "The last assistant message.",
    "last_user_turn": "Every assistant message after the last user message.",
    "all": "Everything, prompts too, at weight 1; the strategies look at responses alone.",
}

ALIASES = {"last_round_with_ignore_empty_think": ("last_round", "ignore_empty_think")}

ENTRY_POINT_GROUP = "agentsft.loss_scales"

_LARGEST = 3.4e38
"""Weights are kept as float32."""


@dataclass(frozen=True)
class LossScale:
    """A base strategy (a key of `BASES`) and the strategies whose weights multiply. `name` is the text it came from."""

    name: str
    base: str
    strategies: tuple[Strategy, ...] = ()

    def spans(self, response: str, query: str | None) -> tuple[Span, ...]:
        """The response of a trained message, cut by weight and label; () for an empty one.

        Spans are in order, without gaps, and neighbours differ in weight or label. Every pattern is matched once, on
        the whole response. `query` is the user or tool message before the response, where there is one.
        """
        if not response:
            return ()
        pieces = [strategy.pieces(response, query) for strategy in self.strategies]
        return labelled_spans(response, reduce(multiply, pieces) if pieces else [(len(response), 1.0)])


def labelled_spans(response: str, pieces: Pieces) -> tuple[Span, ...]:
    """`pieces` of the response, cut by its labels too; neighbours of equal weight and label are one span."""
    rows: list[tuple[int, int, float, str]] = []
    i = 0
    for start, label_end, label in label_response(response):
        while start < label_end:
            piece_end, weight = pieces[i]
            end = min(piece_end, label_end)
            if rows and rows[-1][2:] == (weight, label):
                rows[-1] = (rows[-1][0], end, weight, label)
            else:
                rows.append((start, end, weight, label))
            i += end == piece_end
            start = end
    return tuple(Span(*row) for row in rows)


def parse_loss_scale(spec: str) -> LossScale:
    """The meaning of `[BASE+]NAME[+NAME...]`. A NAME is a strategy's, or the path of a JSON table.

    Raises UserError on an unknown name (naming the nearest), a base that is not first, or a faulty table.
    """
    names = [spec] if _is_path(spec) and Path(spec).is_file() else [name.strip() for name in spec.split("+")]
    names = [part for name in names for part in ALIASES.get(name, (name,))]
    base = names.pop(0) if names[0] in BASES else "default"
    for name in names:
        if name in BASES:
            first = "+".join([name, *(other for other in names if other not in BASES)])
            raise UserError(f"loss_scale {spec!r}: there is one base, and it comes first: {first!r}.")
    strategies = tuple(_strategy(name, spec) for name in names)
    if not math.prod(strategy.largest_weight for strategy in strategies) <= _LARGEST:
        raise UserError(f"loss_scale {spec!r}: the product of its weights is too large; write smaller weights.")
    return LossScale(spec, base, strategies)


def list_strategies() -> list[Strategy]:
    """The built-in strategies and those of installed packages. Raises UserError on a faulty one."""
    plugins = [_from_plugin(plugin) for plugin in _plugins()]
    return [*_built_in().values(), *sorted(plugins, key=lambda strategy: strategy.name)]


def _is_path(name: str) -> bool:
    return name.lower().endswith(".json")


def _strategy(name: str, spec: str) -> Strategy:
    if _is_path(name):
        path = Path(name).expanduser()
        return strategy_from_table(read_table(path), name, f"file {name}", str(path))
    plugins = [plugin for plugin in _plugins() if plugin.name == name]
    owners = [_package(plugin) for plugin in plugins]
    if name in _built_in():
        owners.insert(0, "agentsft")
    if len(owners) > 1:
        raise UserError(f"loss_scale {spec!r}: {' and '.join(owners)} both bring {name!r}; uninstall one of them.")
    if plugins:
        return _from_plugin(plugins[0])
    if name not in _built_in():
        names = [*_built_in(), *(plugin.name for plugin in _plugins())]
        raise UserError(
            f"loss_scale {spec!r}: unknown name {name!r}.{nearest(name, [*BASES, *ALIASES, *names])}"
            f" There are the bases {', '.join(BASES)}, the strategies {', '.join(names)}, and paths of .json tables."
        )
    return _built_in()[name]


@cache
def _built_in() -> dict[str, Strategy]:
    folder = Path(__file__).parent / "strategies"
    return {
        path.stem: strategy_from_table(read_table(path), path.stem, "built in", str(path))
        for path in sorted(folder.glob("*.json"))
    }


def _plugins() -> Iterable[EntryPoint]:
    return entry_points(group=ENTRY_POINT_GROUP)


def _package(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else plugin.value


def _from_plugin(plugin: EntryPoint) -> Strategy:
    """The strategy of an entry point, which names a table (a dict) or the path of one."""
    package = _package(plugin)
    where = f"strategy {plugin.name!r} of the package {package}"
    try:
        table = plugin.load()
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{where} cannot be loaded ({cause}); mend or uninstall it.") from error
    if isinstance(table, (str, os.PathLike)):
        where = f"{where}, {os.fspath(table)}"
        table = read_table(Path(table))
    return strategy_from_table(table, plugin.name, f"plugin {package}", where)
