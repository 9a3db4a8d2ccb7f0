"""λ of SR-STE by the rule of FST: the flip rate should be 0.60 to 0.95 of a dense run's.

Hu et al., ICML 2024, arXiv 2404.01847. The dense run keeps virtual masks, chosen as often.
"""

from __future__ import annotations

from typing import Any

from plan import Variant, setting
from verdict import by_seed

LEAST, MOST = 0.60, 0.95
FLIPS = {"dense": "flips_dense", "relu2": "flips_relu2"}
"""The variant whose flip rates count, by the dense twin."""


def table(rows: list[dict[str, Any]], known: dict[str, Variant]) -> str:
    """A line for each run with a decay whose dense run is there, and the λ to take for each twin.

    To take: of those whose mean flip rate is in the range, the one with the best held-out top-1.
    """
    rows = [row for row in rows if row["choose"]]
    lines, best = [], dict[str, tuple[float, float, str]]()
    for row in rows:
        twin = known[row["variant"]].twin if row["variant"] in known else None
        decay, dense = row["config"].get("sparsity.weight.decay"), _dense(rows, row, twin)
        if decay is None or dense is None or not row["flip_rate"]:
            continue
        ratio = row["flip_rate"]["mean"] / dense
        (top1,) = by_seed([row], row["variant"], "top1").values()
        right = LEAST <= ratio <= MOST
        words = "in range" if right else "too small a λ" if ratio > MOST else "too large a λ"
        name = f"{row['variant']} seed {row['seed']}, {row['epochs']} epochs of {row['data']}"
        lines.append(f"{name:46} λ {decay:<8g} flips {ratio:5.2f}  top-1 {top1:6.2f}  {words}")
        if right and twin is not None:
            best[twin] = max(best.get(twin, (0.0, 0.0, "")), (top1, decay, row["variant"]))
    chosen = [f"over {twin}: λ = {d:g} ({name}, {t:.2f} %)" for twin, (t, d, name) in best.items()]
    return "\n".join([*lines, *chosen]) or "no run with a decay has a dense run beside it"


def _dense(rows: list[dict[str, Any]], row: dict[str, Any], twin: str | None) -> float | None:
    """The mean flip rate of the dense run of the same setting and seed."""
    for other in rows:
        alike = setting(other) == setting(row) and other["seed"] == row["seed"]
        if alike and other["variant"] == FLIPS.get(twin or "") and other["flip_rate"]:
            return other["flip_rate"]["mean"]
    return None
