"""Reads the metrics.csv that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
from pathlib import Path


def read_metrics(csv_path: Path) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return {metric: (steps, values)} for every column but `step`, in the order of the file.

    A row holds only what was logged together, so most cells are empty; those are skipped, and a
    column that is always empty comes back with no steps. `epoch` is a metric like the others. An
    empty file gives {}. Raises `ValueError`, naming the line, when there is no `step` column, a row
    with values has no step, or a cell is not a number.
    """
    with csv_path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        columns = list(rows.fieldnames or ())
        if not columns:
            return {}
        if "step" not in columns:
            raise ValueError(
                f"{csv_path} has no `step` column but {columns}; give a CSVLogger's metrics.csv"
            )
        points: dict[str, list[tuple[float, float]]] = {c: [] for c in columns if c != "step"}
        for row in rows:
            where = f"{csv_path}, line {rows.line_num}"
            for key in points:
                if row[key]:
                    step = _number(row["step"], f"{where}, column step")
                    points[key].append((step, _number(row[key], f"{where}, column {key}")))
    return {
        key: (tuple(step for step, _ in pairs), tuple(value for _, value in pairs))
        for key, pairs in points.items()
    }


def _number(cell: str | None, where: str) -> float:
    try:
        return float(cell or "")
    except ValueError as error:
        raise ValueError(f"{where} holds {cell!r}; every cell must be a number or empty") from error
