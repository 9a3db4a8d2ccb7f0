"""Reads the metrics.csv that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
import math
import reprlib
from pathlib import Path

_POSITIONS = ("step", "epoch")
"""Columns that say where a row stands. They are finite and ≥ 0; what was measured need not be."""


def read_metrics(csv_path: Path) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return {metric: (steps, values)} for every column but `step`, in the order of the file.

    A row holds only what was logged together, so most cells are empty; those are skipped, and a
    column that is always empty comes back with no steps. `epoch` is a metric like the others. An
    empty file gives {}. Raises `ValueError`, naming the line, when there is no `step` column, a row
    with values has no step or more cells than columns, a cell is not a number, or a step or an
    epoch is below 0 or not finite.
    """
    try:
        with csv_path.open(newline="", encoding="utf-8") as file:
            points = _points(csv.DictReader(file), csv_path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{csv_path} is no text in UTF-8; give a CSVLogger's file") from error
    except csv.Error as error:  # a cell of more than 128 KiB; on Python 3.10 a NUL byte
        raise ValueError(f"{csv_path} is no CSV: {error}; give a CSVLogger's file") from error
    return {
        key: (tuple(step for step, _ in pairs), tuple(value for _, value in pairs))
        for key, pairs in points.items()
    }


def _points(rows: csv.DictReader, path: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of every cell that is not empty, by column."""
    columns = list(rows.fieldnames or ())
    if columns and "step" not in columns:
        raise ValueError(
            f"{path} has no `step` column but {reprlib.repr(columns)}; give a CSVLogger's "
            "metrics.csv"
        )
    points: dict[str, list[tuple[float, float]]] = {c: [] for c in columns if c != "step"}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if None in row:
            raise ValueError(f"{where} has more cells than the {len(columns)} columns of the file")
        for key in points:
            if row[key]:
                step = _number(row["step"], f"{where}, column step", "step")
                value = _number(row[key], f"{where}, column {reprlib.repr(key)[1:-1]}", key)
                points[key].append((step, value))
    return points


def _number(cell: str | None, where: str, column: str) -> float:
    try:
        value = float(cell or "")
    except ValueError as error:
        raise ValueError(
            f"{where} holds {reprlib.repr(cell)}; every cell must be a number or empty"
        ) from error
    if column in _POSITIONS and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where} holds {reprlib.repr(cell)}; give a finite number ≥ 0")
    return value
