"""Each variant against its dense twin: the mean difference of paired seeds, and a verdict."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from plan import Variant, setting, variants

T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""Student's t for a two-sided 95 % interval, by degrees of freedom from 1 on."""


@dataclass(frozen=True)
class Difference:
    """delta: mean of variant minus twin, in points of top-1. half: half of its 95 % interval's
    width, infinite for one pair."""

    pairs: int
    delta: float
    half: float


def paired(variant: dict[int, float], twin: dict[int, float]) -> Difference | None:
    """The difference over the seeds that both have; None where there is none."""
    deltas = [variant[seed] - twin[seed] for seed in sorted(set(variant) & set(twin))]
    if not deltas:
        return None
    mean = statistics.fmean(deltas)
    if len(deltas) == 1:
        return Difference(1, mean, math.inf)
    t = T_95[len(deltas) - 2] if len(deltas) - 2 < len(T_95) else 1.96
    return Difference(len(deltas), mean, t * statistics.stdev(deltas) / math.sqrt(len(deltas)))


def judge(difference: Difference, goal: float) -> str:
    """held: the whole interval loses at most `goal` points; missed: all of it loses more."""
    if difference.delta - difference.half >= -goal:
        return "held"
    if difference.delta + difference.half < -goal:
        return "missed"
    return "undecided"


def summary(rows: list[dict[str, Any]]) -> str:
    """Tables of all rows, one for each data set, length, kind of images, state of the recipe and
    changes to it."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(setting(row), []).append(row)
    tables = []
    for (data, digest, epochs, choose, words), group in sorted(groups.items()):
        images = "held-out training images" if choose else "test images"
        recipe = " ".join((group[0]["recipe"], digest, *words))
        title = f"{data}, {epochs} epochs, {images}, recipe {recipe}"
        tables.append(f"{title}\n{table(group, variants())}")
    return "\n\n".join(tables) or "no rows"


def table(rows: list[dict[str, Any]], known: dict[str, Variant]) -> str:
    """One line a variant, in the order of variants.yaml."""
    lines = [f"{'variant':18} seeds   top-1  sparse  Δ to its twin (95 %)      goal  verdict"]
    top1 = {name: by_seed(rows, name, "top1") for name in known}
    for name, variant in known.items():
        if not top1[name]:
            continue
        sparse = by_seed(rows, name, "top1_sparse")
        shown = f"{statistics.fmean(sparse.values()):6.2f}" if sparse else "     –"
        mean = statistics.fmean(top1[name].values())
        line = f"{name:18} {len(top1[name]):5}  {mean:6.2f}  {shown}"
        lines.append((line + against(top1[name], top1.get(variant.twin or ""), variant)).rstrip())
    return "\n".join(lines)


def against(own: dict[int, float], twin: dict[int, float] | None, variant: Variant) -> str:
    """The part of a line that compares; empty for a variant that is a twin itself."""
    if variant.twin is None:
        return ""
    difference = paired(own, twin or {})
    if difference is None:
        return f"  no seed in common with {variant.twin}"
    half = "one seed" if math.isinf(difference.half) else f"± {difference.half:.2f}"
    words = f"{round(difference.delta, 2) + 0.0:+.2f} {half} to {variant.twin}"
    if variant.goal is None:
        return f"  {words:25}"
    return f"  {words:25} {variant.goal:4.1f}  {judge(difference, variant.goal)}"


def by_seed(rows: list[dict[str, Any]], variant: str, key: str) -> dict[int, float]:
    """Top-1 by seed; `top1` of runs that make choices is of held-out images."""
    values = {}
    for row in rows:
        of = "top1_val" if key == "top1" and row["choose"] else key
        if row["variant"] == variant and row[of] is not None:
            values[row["seed"]] = row[of]
    return values
