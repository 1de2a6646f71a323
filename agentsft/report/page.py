"""Runs to a self-contained page, and to PNG files. Vega-Lite draws both; it needs neither a browser nor a network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from agentsft import __version__
from agentsft.errors import UserError
from agentsft.report import figures
from agentsft.report.charts import Chart, charts, theme
from agentsft.report.figures import Figure
from agentsft.report.read import RunFolder

VEGA_LITE = "6.4"
_HEIGHT = 230


def load_vega() -> ModuleType:
    """vl-convert, which holds Vega-Lite. Raises UserError that says what to install where it is absent."""
    try:
        import vl_convert
    except ImportError:
        raise UserError('the report needs vl-convert for its plots: pip install "agentsft[report]".') from None
    return vl_convert


def build_page(runs: Sequence[RunFolder]) -> str:
    """One HTML text with data, plots and the code that shows them. Raises UserError without vl-convert."""
    from jinja2 import Environment

    vega = load_vega()
    plots = charts(runs)
    specs = {plot.name: {**plot.spec, "title": None, "width": "container", "height": _HEIGHT} for plot in plots}
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(
        title=", ".join(run.name for run in runs),
        runs=runs,
        figures={run.name: figures.figures(run) for run in runs},
        comparison=_comparison(runs),
        differing=figures.settings_that_differ(list(runs)),
        groups=_groups(plots),
        of=figures,
        data=_json({"specs": specs, "light": theme(False), "dark": theme(True)}),
        script=_code(vega.javascript_bundle(vl_version=VEGA_LITE)) if plots else "",
        version=__version__,
    )


def write_pngs(runs: Sequence[RunFolder], folder: Path) -> list[Path]:
    """One PNG a plot into `folder`, on white, 1600 pixels wide. Raises UserError without vl-convert."""
    vega = load_vega()
    config = {**theme(False), "background": "white", "padding": 12, "font": "sans-serif"}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in charts(runs):
        spec = {**plot.spec, "width": 700, "height": 300, "config": config}
        path = folder / f"{plot.name}.png"
        path.write_bytes(vega.vegalite_to_png(json.dumps(spec), vl_version=VEGA_LITE, scale=2))
        paths.append(path)
    return paths


def _json(value: Any) -> Any:
    """`value` as JSON that no text in it takes out of its script element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704


def _code(script: str) -> Any:
    """A library's own JavaScript; in its texts and patterns `<\\/script` means what `</script` does."""
    from markupsafe import Markup

    return Markup(re.sub("</(?=script)", r"<\\/", script, flags=re.IGNORECASE))  # noqa: S704


def _groups(plots: Sequence[Chart]) -> dict[str, list[Chart]]:
    names = dict.fromkeys(plot.group for plot in plots)
    return {name: [plot for plot in plots if plot.group == name] for name in names}


def _comparison(runs: Sequence[RunFolder]) -> list[tuple[str, list[tuple[Figure | None, bool]]]]:
    """(name, (figure, whether it is the best) of each run) of several runs."""
    if len(runs) < 2:
        return []
    found = [{figure.name: figure for figure in figures.figures(run)} for run in runs]
    rows = []
    for name in dict.fromkeys(name for one in found for name in one):
        cells = [one.get(name) for one in found]
        merits = [
            cell.value * cell.better if cell and cell.better and cell.value is not None else None for cell in cells
        ]
        known = {merit for merit in merits if merit is not None}
        best = max(known) if len(known) > 1 else None
        rows.append(
            (name, [(cell, best is not None and merit == best) for cell, merit in zip(cells, merits, strict=True)])
        )
    return rows
