"""What the charts of a page draw, as plain values for charts.js. Nothing constant is drawn.

A chart: {title, unit, x, series: [{name, line, x, y}], bands: [{label, from, to, shade}]}
A map:   {title, unit, rows, steps, values: [row][step], low, high}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from sparsetrain.lightning.report.data import Run, Span
from sparsetrain.lightning.report.measures import epochs_at, validations

Points = list[tuple[float, float]]
Chart = dict[str, Any]

MOST_POINTS = 2000  # of a line; four times as many where each matters
MOST_COLUMNS = 300  # of a map
_SHADES = {"dense warmup": 0, "sparse": 1, "dense tail": 2}

# Title, unit, factor, metrics with the names of their lines.
_BY_STEP = (
    ("Loss", "", 1.0, (("train/loss", "train"), ("val/loss", "validation"))),
    ("Gradient norm", "", 1.0, (("train/grad_norm", "gradient norm"),)),
    ("Flip rate", "% of the mask", 100.0, (("sparsity/flip_rate", "flip rate"),)),
    ("Density", "% of the weights", 100.0, (("sparsity/density", "density"),)),
    ("Throughput", "images/s", 1.0, (("perf/images_per_s", "images/s"),)),
    ("Choosing masks", "ms", 1.0, (("perf/sparsify_ms", "choosing masks"),)),
    ("Model FLOPs utilization", "% of the dense peak", 100.0, (("perf/mfu", "utilization"),)),
    ("Learning rate", "", 1.0, (("train/lr", "learning rate"),)),
)
_MAPS = (
    ("Kept energy", "of Σ w², by layer", "sparsity/kept_energy/"),
    ("Flip rate", "of the mask, by layer", "sparsity/flip_rate/"),
)


def charts_of(run: Run) -> list[Chart]:
    """The charts of one run."""
    epochs = epochs_at(run)
    accuracy = [
        (name, _points(run, key, 100.0, epochs))
        for key, name in (("val/top1", "top-1"), ("val/top5", "top-5"))
    ]
    bands = _bands(run.phases)
    by_step = (
        _chart(title, unit, "step", [(n, _points(run, key, by)) for key, n in keys], bands)
        for title, unit, by, keys in _BY_STEP
    )
    return _drawn([_chart("Accuracy", "%", "epoch", accuracy), *by_step])


def charts_of_many(runs: Sequence[Run]) -> list[Chart]:
    """The charts of several runs, a line each."""

    def compared(title: str, unit: str, x: str, points: Callable[[Run], Points]) -> Chart:
        return _chart(title, unit, x, [(run.label, points(run)) for run in runs])

    factor, unit = _time_unit(runs)
    return _drawn(
        [
            compared("Accuracy over epochs", "top-1, %", "epoch", _accuracy),
            compared(
                "Accuracy over wall-clock",
                "top-1, %",
                unit,
                lambda run: [
                    (v.seconds / factor, v.top1) for v in validations(run) if v.seconds is not None
                ],
            ),
            compared("Training loss", "", "step", lambda run: _points(run, "train/loss")),
            compared("Validation loss", "", "step", lambda run: _points(run, "val/loss")),
            compared("Throughput", "images/s", "step", lambda r: _points(r, "perf/images_per_s")),
            compared("Memory", "peak, GiB", "step", lambda run: _points(run, "perf/memory_gib")),
            compared("Gradient norm", "", "step", lambda run: _points(run, "train/grad_norm")),
            compared(
                "Flip rate",
                "% of the mask",
                "step",
                lambda run: _points(run, "sparsity/flip_rate", 100.0),
            ),
        ]
    )


def maps_of(run: Run) -> list[Chart]:
    """A map of layers by steps for what each layer logged."""
    maps = (_map(run, title, unit, prefix) for title, unit, prefix in _MAPS)
    return [each for each in maps if each["low"] < each["high"]]


def thin_out(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Points:
    """At most about 4 × `most` points: of each stretch of x the first, lowest, highest and last.

    So a spike of a single step stays visible in a run of a million. Fewer points stay as they are.
    """
    if len(points) <= 4 * most:
        return list(points)
    low, high = points[0][0], points[-1][0]
    stretch = (high - low) / most or 1.0
    kept: Points = []
    for _, group in groupby(points, key=lambda point: (point[0] - low) // stretch):
        column = list(group)
        ys = [y for _, y in column]
        places = {0, ys.index(min(ys)), ys.index(max(ys)), len(ys) - 1}
        kept.extend(column[i] for i in sorted(places))
    return kept


def _accuracy(run: Run) -> Points:
    return [(v.epoch, v.top1) for v in validations(run)]


def _points(
    run: Run, key: str, factor: float = 1.0, places: dict[float, float] | None = None
) -> Points:
    """(x, value) of a metric by step, or by what a step's place is."""
    steps, values = run.metrics.get(key, ((), ()))
    if places is None:
        return [(step, factor * value) for step, value in zip(steps, values, strict=True)]
    return [
        (places[s], factor * value) for s, value in zip(steps, values, strict=True) if s in places
    ]


def _chart(
    title: str, unit: str, x: str, lines: Iterable[tuple[str, Points]], bands: Any = ()
) -> Chart:
    series = []
    for line, (name, points) in enumerate(lines):
        ordered = thin_out(sorted(dict(points).items()))  # the last of equal places counts
        xs, ys = [_place(x) for x, _ in ordered], [short(y) for _, y in ordered]
        series.append({"name": name, "line": line, "x": xs, "y": ys})
    return {"title": title, "unit": unit, "x": x, "series": series, "bands": list(bands)}


def _drawn(charts: list[Chart]) -> list[Chart]:
    """The charts with a line that is not flat, without lines that have no points."""
    for chart in charts:
        chart["series"] = [s for s in chart["series"] if any(y is not None for y in s["y"])]
    return [c for c in charts if any(len({*s["y"]} - {None}) > 1 for s in c["series"])]


def _bands(phases: Sequence[Span]) -> list[Chart]:
    """The phases to shade; none for a run of a single phase."""
    if len(phases) < 2:
        return []
    return [
        {"label": s.label, "from": s.start, "to": s.stop, "shade": _SHADES.get(s.label, 0)}
        for s in phases
    ]


def _map(run: Run, title: str, unit: str, prefix: str) -> Chart:
    names = [key for key in run.metrics if key.startswith(prefix)]
    steps = sorted({step for name in names for step in run.metrics[name][0]})
    stride = -(-len(steps) // MOST_COLUMNS) or 1
    steps = steps[::stride]
    found = [dict(zip(*run.metrics[name], strict=True)) for name in names]
    values = [[short(row.get(step)) for step in steps] for row in found]
    known = [value for row in values for value in row if value is not None]
    dotted = {row.name.replace(".", "_"): row.name for row in run.layers}  # loggers take no dots
    logged = (name.removeprefix(prefix).removeprefix("network_") for name in names)
    rows = [dotted.get(name, name) for name in logged]
    low, high = min(known, default=0.0), max(known, default=0.0)
    shown = {"title": title, "unit": unit, "rows": rows, "steps": [_place(s) for s in steps]}
    return {**shown, "values": values, "low": low, "high": high}


def _time_unit(runs: Sequence[Run]) -> tuple[float, str]:
    longest = max(
        (v.seconds for run in runs for v in validations(run) if v.seconds is not None), default=0.0
    )
    if longest < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")


def _place(x: float) -> float:
    return int(x) if float(x).is_integer() else round(x, 4)


def short(value: float | None) -> float | None:
    """Six significant digits; None, a gap, for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded
