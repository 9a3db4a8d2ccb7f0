"""Rows as tables in Markdown: differences to the dense model of the same seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product

from scripts.prune_table.variants import MASKS, METHODS, Row, Variant

_KINDS = ((False, False), (True, False), (False, True), (True, True))


def table(rows: Sequence[Row]) -> str:
    """Mean ± standard error over the seeds."""
    dense = {row["seed"]: row for row in rows if row["variant"] is None and "retrained" not in row}
    top1 = mean_and_error([row["top1"] for row in dense.values()]).lstrip("+")
    loss = statistics.fmean(row["loss"] for row in dense.values())
    lines = [f"dense: top-1 {top1} %, loss {loss:.4f}; seeds {', '.join(map(str, dense))}"]
    for key, digits in (("top1", 2), ("loss", 4)):
        name = "top-1" if key == "top1" else "loss"
        lines += [
            "",
            f"| method | masks | Δ {name} | permuted | fitted | permuted, fitted |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for masks, method in product(MASKS, METHODS):
            cells = [
                difference(rows, dense, Variant(method, masks, permute, fit), key, digits)
                for permute, fit in _KINDS
            ]
            lines.append(f"| {method} | {masks} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *retrained_lines(rows, dense)])


def difference(
    rows: Sequence[Row], dense: dict[int, Row], variant: Variant, key: str, digits: int
) -> str:
    mine = [row for row in rows if row["variant"] == asdict(variant)]
    return mean_and_error([row[key] - dense[row["seed"]][key] for row in mine], digits)


def retrained_lines(rows: Sequence[Row], dense: dict[int, Row]) -> list[str]:
    mine = [row for row in rows if "retrained" in row]
    if not mine:
        return []
    how = mine[0]["retrained"]
    words = [how["method"], how["masks"], *(w for w in ("permute", "fit") if how[w])]
    delta = mean_and_error([row["top1"] - dense[row["seed"]]["top1"] for row in mine])
    return [f"retrained for {mine[0]['epochs']} epochs ({' '.join(words)}): Δ top-1 {delta}"]


def mean_and_error(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "–"
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"
