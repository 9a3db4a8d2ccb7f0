"""Speed over density, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sparsetrain.bench.bars import figure_class

_STYLES = {
    "coo": ("#7a7a7a", "v"),
    "csr": ("#1f77b4", "o"),
    "bsr 16": ("#f2b48c", "s"),
    "bsr 32": ("#e58a4e", "s"),
    "bsr 64": ("#c8601f", "s"),
    "bsr 128": ("#7f3a0d", "s"),
    "2:4": ("#2ca02c", "*"),
}


class Point(Protocol):
    """A product at one density."""

    @property
    def form(self) -> str: ...
    @property
    def density(self) -> float: ...
    @property
    def speed(self) -> float: ...
    @property
    def refused(self) -> str: ...


def draw_curve(path: Path, title: str, points: Sequence[Point]) -> None:
    """Write a PNG: density, falling to the right, against speed over dense. Raises ValueError where
    matplotlib is missing."""
    figure = figure_class()(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axhline(1.0, color="black", linewidth=1.2, label="dense")
    for form, (color, marker) in _STYLES.items():
        found = [(p.density, p.speed) for p in points if p.form == form and not p.refused]
        if found:
            densities, speeds = zip(*found, strict=True)
            axes.plot(densities, speeds, color=color, marker=marker, markersize=4, label=form)
    axes.set(xscale="log", yscale="log")
    axes.invert_xaxis()
    axes.set_xlabel("density: the share of values that is kept")
    axes.set_ylabel("speed over the dense product")
    axes.set_title(title, fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
