"""The products of a run under their roofline, as a picture.

A product moves its operands and its result once at least, so it does at most
    FLOP per byte × the bandwidth of a copy
and at most what the tensor cores do: taken as the fastest product of the run, dense and 2:4.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.bench.matmul_measure import DENSE, NATIVE, Row
from sparsetrain.bench.bars import figure_class

_COLORS = {DENSE: "#7a7a7a", NATIVE: "#c8371f"}
_LABELS = {DENSE: "dense, cuBLAS", NATIVE: "2:4, sparsetrain"}
_MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_roofline(path: Path, hardware: str, copy: float, rows: Sequence[Row]) -> None:
    """Write a PNG: FLOP per byte against TFLOP/s, a pair of points for each product.

    hardware: for the title. copy: TB/s. Raises ValueError where matplotlib is missing.
    """
    figure = figure_class()(figsize=(9, 6), dpi=150, layout="constrained")
    ticker = importlib.import_module("matplotlib.ticker")
    axes = figure.subplots()
    points = {name: _points(rows, name) for name in (DENSE, NATIVE)}
    every = [point for found in points.values() for point in found.values()]
    ridges = [max(y for _, y in found.values()) / copy for found in points.values() if found]
    low = min(*ridges, *(x for x, _ in every)) / 1.5
    high = max(x for x, _ in every) * 1.5
    bottom = min(copy * low, *(y for _, y in every)) / 1.2
    top = max(y for _, y in every) * 1.5

    ends = [low, min(high, top / copy)]
    axes.plot(ends, [copy * x for x in ends], color="black", linewidth=1.2)
    words = f"copy, {copy:.2f} TB/s"
    place = (ends[0], copy * ends[0])
    axes.annotate(words, place, xytext=(12, 4), textcoords="offset points", fontsize=8)
    for name, found in points.items():
        if not found:
            continue
        peak = max(y for _, y in found.values())
        axes.plot([peak / copy, high], [peak, peak], color=_COLORS[name], linewidth=1.2)
        words = f"{_LABELS[name]}: best {peak:.0f} TFLOP/s"
        place = (high, peak)
        style: dict[str, Any] = {"color": _COLORS[name], "fontsize": 8, "ha": "right"}
        axes.annotate(words, place, xytext=(-4, 4), textcoords="offset points", **style)
    _scatter(axes, rows, points)

    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, top))
    axes.set_xlabel("FLOP of the dense product / byte that must be moved")
    axes.set_ylabel("TFLOP/s of the dense product")
    axes.set_title(f"2:4 products, {hardware}", fontsize=10)
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 4, 5, 6, 8)))  # 9 runs into 10
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}" if high / low < 100 else "")
    axes.tick_params(which="both", labelsize=7, length=3, pad=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _points(rows: Sequence[Row], name: str) -> dict[int, tuple[float, float]]:
    """Place of each row that timed the candidate: FLOP per byte, TFLOP/s."""
    return {
        number: (row.flops / row.moved[name], row.rate(name))
        for number, row in enumerate(rows)
        if name in row.times
    }


def _scatter(
    axes: Any, rows: Sequence[Row], points: dict[str, dict[int, tuple[float, float]]]
) -> None:
    names = list(dict.fromkeys(row.name for row in rows))
    for number in points[NATIVE].keys() & points[DENSE].keys():
        pair = points[DENSE][number], points[NATIVE][number]
        line = {"color": "#bbbbbb", "linewidth": 0.6, "zorder": 1}
        axes.plot([x for x, _ in pair], [y for _, y in pair], **line)
    for candidate, found in points.items():
        for number, (x, y) in found.items():
            marker = _MARKERS[names.index(rows[number].name)]
            axes.scatter(x, y, s=26, marker=marker, color=_COLORS[candidate], zorder=2)
    for name, marker in zip(names, _MARKERS, strict=False):
        axes.scatter([], [], s=26, marker=marker, color="black", label=name)
    axes.legend(fontsize=8, loc="lower right")
