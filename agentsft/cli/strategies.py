"""`agentsft strategies`: the tables of weights, as their data files have them."""

from __future__ import annotations

from agentsft.cli.display import console, table
from agentsft.weigh.loss_scale import list_strategies


def run_strategies() -> None:
    """Print every strategy that can be named, and how names combine."""
    screen = console()
    print(list_strategies()[:1])
    screen.print(table("", ["name"], []))
