"""`agentsft strategies`: the tables of weights, as their data files have them."""

from __future__ import annotations

from rich.text import Text

from agentsft.cli.display import console, table
from agentsft.weigh.loss_scale import ALIASES, BASES, list_strategies


def run_strategies() -> None:
    """Print every name that --loss-scale takes, and how names combine."""
    screen = console()
    screen.print("--loss-scale [BASE+]NAME[+NAME...]; the weights of several names multiply\n", markup=False)
    screen.print(table("bases", ["base", "trains"], BASES.items()))
    aliases = ((name, "+".join(parts)) for name, parts in ALIASES.items())
    screen.print(table("\naliases", ["alias", "means"], aliases))
    for strategy in list_strategies():
        screen.print(
            Text.assemble(
                ("\n" + strategy.name, "bold"), f"  {strategy.description}", (f"  ({strategy.origin})", "dim")
            )
        )
        rows = (
            (kind, Text(pattern), ", ".join(f"{weight:g}" for weight in weights))
            for kind, pattern, weights in strategy.rows
        )
        screen.print(table("", ["kind", "pattern", "weight: own, text after"], rows))
