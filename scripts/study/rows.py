"""Rows in JSON files: one of each run that ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from plan import key_of

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else []


def write(path: Path, rows: list[Row]) -> None:
    """Replace a file by these rows, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(beside, path)


def merge(files: list[Path], folder: Path) -> str:
    """Add the rows of files to accuracy-DATA.json of a folder; a run's newest row counts."""
    lines = []
    new = [row for file in files for row in read(file)]
    for data in sorted({row["data"] for row in new}):
        path = folder / f"accuracy-{data}.json"
        of_data = [row for row in new if row["data"] == data]
        merged = {key_of(row): row for row in sorted(read(path) + of_data, key=_date)}
        write(path, sorted(merged.values(), key=lambda row: str(key_of(row))))
        lines.append(f"{path}: {len(merged)} rows")
    return "\n".join(lines) or "no rows"


def _date(row: Row) -> str:
    return row["date"]
