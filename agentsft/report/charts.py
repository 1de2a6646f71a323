"""The curves of runs as Vega-Lite specifications: data and what is seen, no drawing."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from agentsft.report.figures import number
from agentsft.report.read import RunFolder
from agentsft.types import LABELS

MOST_POINTS = 1000
"""Points of a curve. Longer ones are averaged over stretches of equal length, so that a page stays small."""

_LIGHT = ["#2563c9", "#d1491b", "#1d8348", "#8e3fb0", "#a67200", "#0b8ea0", "#c2347f", "#5f6b7a", "#6a7f12", "#7a4a2b"]
_DARK = ["#6ea8fe", "#ff8a5c", "#5fd08a", "#c792ea", "#e6b94a", "#4fd0e0", "#ff7ab8", "#a6b0bd", "#b5cc4f", "#d09a70"]

Points = list[tuple[int, float]]
"""(step, value) in order."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One plot: `name` for files, `title` and `note` for people, `group` the heading under which it stands."""

    name: str
    title: str
    group: str
    spec: dict[str, Any]
    note: str = ""


def theme(dark: bool) -> dict[str, Any]:
    """Vega-Lite's config for a light or a dark page, whose background shows through."""
    text, faint = ("#c9d1d9", "#30363d") if dark else ("#3d444d", "#e4e7eb")
    plain = {"labelColor": text, "titleColor": text, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": 500}
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {
            **plain,
            "gridColor": faint,
            "domain": False,
            "tickColor": faint,
            "labelPadding": 6,
            "labelFlush": False,
        },
        "legend": {
            **plain,
            "title": None,
            "orient": "top",
            "symbolType": "stroke",
            "symbolOpacity": 1,
            "symbolStrokeWidth": 3,
            "offset": 6,
        },
        "title": {"color": text, "fontSize": 14, "anchor": "start", "fontWeight": 600},
        "range": {"category": _DARK if dark else _LIGHT},
        "rule": {"color": text},
    }


@dataclass(frozen=True, slots=True)
class _Look:
    """`form` of the axis' numbers; `smooth`: a running mean over the faint curve; `zero`: the axis begins there.

    `log` and `dots` (each point is seen) follow from the data."""

    form: str = "~g"
    smooth: bool = False
    zero: bool = False
    log: bool = False
    dots: bool = False


_NUMBERS = {"step": "number", "key": "string", "value": "number", "mean": "number"}
_PLAIN, _NOISY = _Look(), _Look(smooth=True)
Rows = Callable[[RunFolder], list[dict[str, Any]]]
Curves = dict[str, Points]


def charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Every plot for which any of the runs has data."""

    def of_steps(run: RunFolder) -> list[dict[str, Any]]:
        return run.steps

    def of_evaluations(run: RunFolder) -> list[dict[str, Any]]:
        return run.evaluations

    skipped = [row["step"] for row in runs[0].steps if "skipped" in row] if len(runs) == 1 else []
    speed = "Speed and memory"
    made = [
        _chart("loss", "Training loss", "Loss", _of_runs(runs, "loss", of_steps), _NOISY, skipped),
        _chart("eval_loss", "Held-out loss", "Loss", _of_runs(runs, "eval_loss", of_evaluations)),
        *_by_label(runs, "loss_by_label", "Training loss", of_steps, _NOISY),
        *_by_label(runs, "eval_loss_by_label", "Held-out loss", of_evaluations, _PLAIN),
        _chart("learning_rate", "Learning rate", "Optimizer", _of_runs(runs, "learning_rate", of_steps), _Look("~e")),
        _chart(
            "grad_norm", "Gradient norm, before clipping", "Optimizer", _of_runs(runs, "grad_norm", of_steps), _NOISY,
            skipped,
        ),
        *(
            _chart(key, title, speed, _of_runs(runs, key, of_steps), look)
            for key, title, look in (
                ("tokens_per_second", "Tokens per second", _Look(",~f", smooth=True, zero=True)),
                ("mfu", "Model FLOP utilisation", _Look("~%", smooth=True, zero=True)),
                ("memory_gib", "Peak memory, GiB", _Look(zero=True)),
            )
        ),
    ]  # fmt: skip
    return [chart for chart in made if chart is not None]


def _of_runs(runs: Sequence[RunFolder], key: str, rows: Rows) -> Curves:
    return {run.name: _points(rows(run), lambda row: row.get(key)) for run in runs}


def _by_label(runs: Sequence[RunFolder], key: str, kind: str, rows: Rows, look: _Look) -> list[Chart | None]:
    """One plot with a curve a label; of several runs, one plot a label with a curve a run."""

    def by_label(row: dict[str, Any]) -> dict[str, Any]:
        found = row.get(key)
        return found if isinstance(found, dict) else {}

    found = {label for run in runs for row in rows(run) for label in by_label(row)}
    labels = [label for label in LABELS if label in found] + sorted(found - set(LABELS))
    curves = {
        label: {run.name: _points(rows(run), lambda row, label=label: by_label(row).get(label)) for run in runs}
        for label in labels
    }
    group = "Loss by label"
    if len(runs) == 1:
        of_one = {label: of_runs[runs[0].name] for label, of_runs in curves.items()}
        return [_chart(key, f"{kind} by label", group, of_one, look)]
    return [_chart(f"{key}-{label}", f"{kind}: {label}", group, curves[label], look) for label in labels]


def _points(rows: Iterable[dict[str, Any]], value: Callable[..., Any]) -> Points:
    return [(row["step"], found) for row in rows if (found := number(value(row))) is not None]


def _chart(
    name: str, title: str, group: str, curves: Curves, look: _Look = _PLAIN, skipped: Sequence[int] = ()
) -> Chart | None:
    names = list(curves)  # of series without points too, so that a run has one colour in all plots
    steps = [step for points in curves.values() for step, _ in points]
    if not steps:
        return None
    size = 1 + (max(steps) - min(steps)) // MOST_POINTS if max(map(len, curves.values())) > MOST_POINTS else 1
    thinned = {k: thin(points, size) for k, points in enumerate(curves.values()) if points}
    window = max(map(len, thinned.values())) // 40 if look.smooth else 0
    lines = [
        f"{step},{k},{value:.5g},{mean:.5g}"
        for k, points in thinned.items()
        for (step, value), mean in zip(points, running_mean([value for _, value in points], window), strict=True)
    ]
    data = {"values": "\n".join(["step,key,value,mean", *lines]), "format": {"type": "csv", "parse": _NUMBERS}}
    notes = [
        f"each point is the mean of up to {size} steps" if size > 1 else "",
        f"bold: mean of {2 * window + 1} points" if window else "",
        "dashed: steps skipped" if skipped else "",
    ]
    found = [value for points in thinned.values() for _, value in points]
    look = replace(look, smooth=window > 0, log=_is_wide(found), dots=len(lines) <= 40 * len(thinned))
    spec = _spec(title, data, names, list(thinned), look, skipped[:200])
    return Chart(re.sub(r"[^\w.-]+", "_", name), title, group, spec, "; ".join(filter(None, notes)))


def thin(points: Points, size: int) -> Points:
    """One point for each stretch of `size` steps, the mean of those in it. Stretches begin at the same steps in every
    curve, so that curves can be compared; the last step stays.
    """
    if size == 1:
        return points
    stretches = [list(group) for _, group in groupby(points, lambda point: (point[0] - 1) // size)]
    ends = [((stretch[0][0] - 1) // size + 1) * size for stretch in stretches]
    ends[-1] = stretches[-1][-1][0]
    return [(end, statistics.fmean(v for _, v in stretch)) for end, stretch in zip(ends, stretches, strict=True)]


def running_mean(found: Sequence[float], window: int) -> list[float]:
    """The mean of each number and up to `window` neighbours on either side; `window` 0 leaves them as they are."""
    if not window:
        return list(found)
    sums = [0.0]
    for value in found:
        sums.append(sums[-1] + value)
    ends = ((max(0, k - window), min(len(found), k + window + 1)) for k in range(len(found)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def _is_wide(found: list[float]) -> bool:
    """Whether a logarithmic axis shows more: outliers would press the rest to the floor."""
    return min(found) > 0 and max(found) > 20 * statistics.median(found)


def _spec(
    title: str, data: dict[str, Any], names: list[str], present: list[int], look: _Look, skipped: Sequence[int]
) -> dict[str, Any]:
    y = {
        "field": "mean",
        "type": "quantitative",
        "title": None,
        "scale": {"type": "log"} if look.log else {"zero": look.zero},
        "axis": {"format": look.form, "tickCount": 6},
    }
    legend = {"values": [names[k] for k in present]} if len(names) > 1 else None
    colour = {"field": "series", "type": "nominal", "sort": None, "scale": {"domain": names}, "legend": legend}
    layers = [
        {
            "params": [{"name": "pick", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}],
            "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 22} if look.dots else False},
            "encoding": {"y": y, "color": colour, "opacity": _where_picked(1)},
        },
        _pointer(names, present),
    ]
    if look.smooth:
        faint = {
            "y": {**y, "field": "value"},
            "color": colour,
            "opacity": _where_picked(0.28 if len(names) == 1 else 0.2),
        }
        layers.insert(0, {"mark": {"type": "line", "strokeWidth": 1}, "encoding": faint})
    if skipped:
        dashed = {"type": "rule", "strokeDash": [3, 3], "color": "#e5484d", "opacity": 0.7}
        layers.insert(-1, {"data": {"values": [{"step": step} for step in skipped]}, "mark": dashed})
    axis = {"tickMinStep": 1, "tickCount": 8, "grid": False, "format": ",d"}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": title,
        "data": data,
        "transform": [{"calculate": f"{json.dumps(names)}[+datum.key]", "as": "series"}],
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False}, "axis": axis}
        },
        "layer": layers,
    }


def _where_picked(opacity: float) -> dict[str, Any]:
    """A click on the legend leaves that series alone."""
    return {"condition": {"param": "pick", "value": opacity}, "value": 0.08}


def _pointer(names: list[str], present: list[int]) -> dict[str, Any]:
    """A line at the step nearest to the pointer, and the values of all series there."""
    nearest = {"type": "point", "fields": ["step"], "nearest": True, "on": "pointerover", "clear": "pointerout"}
    shown = {"condition": {"param": "hover", "empty": False, "value": 0.45}, "value": 0}
    fields = [{"field": f"s{k}", "type": "quantitative", "title": names[k], "format": ".4~g"} for k in present]
    return {
        "transform": [
            {"calculate": "'s' + datum.key", "as": "column"},
            {"pivot": "column", "value": "value", "groupby": ["step"]},
        ],
        "params": [{"name": "hover", "select": nearest}],
        "mark": {"type": "rule", "strokeWidth": 1},
        "encoding": {
            "opacity": shown,
            "tooltip": [{"field": "step", "type": "quantitative", "format": ",.0f"}, *fields],
        },
    }
