"""One scale of colours for weights, for terminal and page alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """Weights up to `limit` (below it, where `open`), and their backgrounds on light and on dark pages.

    `odd` and `dark_odd` are a shade apart, to tell neighbouring tokens from one another.
    """

    limit: float
    open: bool
    meaning: str
    light: str
    odd: str
    dark: str
    dark_odd: str


SCALE = (
    Step(0.0, False, "0, not trained", "", "", "", ""),
    Step(1.0, True, "below 1", "#dcebfa", "#c9dff5", "#1a3049", "#213b59"),
    Step(1.0, False, "1", "#8fc2f2", "#7db4ea", "#1c5d9f", "#1a528c"),
    Step(2.0, False, "above 1, up to 2", "#ffd166", "#f7c04a", "#7a5200", "#6b4700"),
    Step(float("inf"), False, "above 2", "#f28e5c", "#e87f4a", "#f49b69", "#ea8a55"),
)
"""From blue to orange, since these two are told apart with every common kind of colour blindness. In the page the
steps above 1 are underlined too."""


def step_of(weight: float) -> int:
    """The number in `SCALE` of the step that `weight` is on."""
    return next(n for n, step in enumerate(SCALE) if weight < step.limit or (weight == step.limit and not step.open))


def css_variables() -> str:
    """The scale as CSS variables `--w1`, `--w1-odd`, ... with a light and a dark value each."""
    return "".join(
        f"--w{n}:light-dark({step.light},{step.dark});--w{n}-odd:light-dark({step.odd},{step.dark_odd});"
        for n, step in enumerate(SCALE)
        if step.light
    )
