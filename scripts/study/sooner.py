"""Top-1 over wall-clock: after how many seconds a sparse run has the accuracy of a dense one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plan import Variant, setting

BELOW = (0.0, 1.0, 3.0)
"""Points below the dense run's best top-1 that are looked for."""

NONE = "no sparse run with times of its validations has a dense one beside it"

Row = dict[str, Any]


def table(rows: list[Row], known: dict[str, Variant]) -> str:
    """A line for each sparse run, each dense one of the same setting and seed and each of BELOW:
    when either first had so much top-1 on held-out images, and the ratio of the two times."""
    lines = []
    for group in groups(rows, known):
        dense = [row for row in group if is_dense(row, known)]
        for row in group:
            if row not in dense:
                lines += [line for other in dense for line in both(row, other)]
    return "\n".join(lines) or NONE


def both(row: Row, dense: Row) -> list[str]:
    """The lines of a sparse run beside a dense one."""
    best, lines = max(dense["curve"]), []
    for below in BELOW:
        own, its = reached(row, best - below), reached(dense, best - below)
        assert its is not None  # the dense run has its own best
        after = "never" if own is None else f"{own:5.0f} s  {its / own:.2f}x"
        who = f"{row['variant']:16} seed {row['seed']}"
        lines.append(f"{who}  {best - below:6.2f} % {dense['variant']} {its:5.0f} s, it {after}")
    return lines


def groups(rows: list[Row], known: dict[str, Variant]) -> list[list[Row]]:
    """The runs of each setting and seed that has sparse and dense ones: with --choose, in one go,
    that say when they were validated."""
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        named = row["variant"] in known and row["choose"] and not row["resumed"]
        if named and row.get("curve_seconds"):
            alike.setdefault((setting(row), row["seed"]), []).append(row)
    return [g for g in alike.values() if len({is_dense(row, known) for row in g}) == 2]


def is_dense(row: Row, known: dict[str, Variant]) -> bool:
    return known[row["variant"]].twin is None


def reached(row: Row, top1: float) -> float | None:
    """Seconds until the first validation with at least `top1`; None if no validation has it."""
    pairs = zip(row["curve_seconds"], row["curve"], strict=True)
    return next((seconds for seconds, value in pairs if value >= top1), None)


def draw(path: Path, rows: list[Row], known: dict[str, Variant]) -> None:
    """Write a PNG of what `table` compares: a line for each run, dense ones broken. Raises
    ValueError where there is nothing, or matplotlib is missing."""
    from sparsetrain.bench.bars import figure_class

    found = groups(rows, known)
    if not found:
        raise ValueError(NONE)
    figure = figure_class()(figsize=(8, 4.5 * len(found)), dpi=110, layout="constrained")
    for group, axes in zip(found, figure.subplots(len(found), squeeze=False).flat, strict=True):
        for row in group:
            style = "--" if is_dense(row, known) else "-"
            axes.plot(row["curve_seconds"], row["curve"], style, label=row["variant"])
        axes.set_title(f"{group[0]['recipe']}, seed {group[0]['seed']}", fontsize=10)
        axes.set_xlabel("seconds since training began, validation included")
        axes.set_ylabel("top-1 on held-out images, %")
        axes.grid(visible=True, linewidth=0.3, alpha=0.5)
        axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
