"""Top-1 over wall-clock: after how many seconds a run has its dense twin's accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plan import Variant, setting

BELOW = (0.0, 1.0, 3.0)
"""Points below the twin's best top-1 that are looked for."""

Row = dict[str, Any]


def table(rows: list[Row], known: dict[str, Variant]) -> str:
    """A line for each run whose dense twin of the same seed is there: when either first had so
    much top-1 on held-out images, and the ratio of the two times."""
    lines = []
    for row in with_times(rows):
        twin = known[row["variant"]].twin if row["variant"] in known else None
        dense = next((other for other in with_times(rows) if is_twin(other, row, twin)), None)
        if dense is None:
            continue
        best = max(dense["curve"])
        for below in BELOW:
            own, its = reached(row, best - below), reached(dense, best - below)
            assert its is not None  # the twin has its own best
            after = "never" if own is None else f"{own:5.0f} s  {its / own:.2f}x"
            who = f"{row['variant']:16} seed {row['seed']}"
            lines.append(f"{who}  {best - below:6.2f} % {twin} {its:5.0f} s, it {after}")
    return "\n".join(lines) or "no run with times of its validations has a dense twin"


def with_times(rows: list[Row]) -> list[Row]:
    """Runs with --choose, in one go, that say when they were validated."""
    return [
        row for row in rows if row["choose"] and not row["resumed"] and row.get("curve_seconds")
    ]


def is_twin(other: Row, row: Row, twin: str | None) -> bool:
    alike = setting(other) == setting(row) and other["seed"] == row["seed"]
    return other["variant"] == twin and alike


def reached(row: Row, top1: float) -> float | None:
    """Seconds until the first validation with at least `top1`; None if no validation has it."""
    pairs = zip(row["curve_seconds"], row["curve"], strict=True)
    return next((seconds for seconds, value in pairs if value >= top1), None)


def draw(path: Path, rows: list[Row]) -> None:
    """Write a PNG: a line for each run, dense ones broken. Raises ValueError where matplotlib is
    missing."""
    from sparsetrain.bench.bars import figure_class

    figure = figure_class()(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row in with_times(rows):
        style = "--" if row["density"] == 1 else "-"
        label = f"{row['variant']}, seed {row['seed']}"
        axes.plot(row["curve_seconds"], row["curve"], style, linewidth=1.2, label=label)
    axes.set_xlabel("seconds since training began, validation included")
    axes.set_ylabel("top-1 on held-out images, %")
    axes.grid(visible=True, linewidth=0.3, alpha=0.5)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
