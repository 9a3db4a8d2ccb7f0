"""run.json: what a run says of itself, beside the numbers in metrics.csv."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain.lightning.report.data import LayerRow, MaskPair, Run, Span
from sparsetrain.lightning.report.metrics import read_metrics

RECORD = "run.json"
FORMAT = 1


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 to `path`; a reader sees the old file or the new one, never half.

    The folder must exist. The temporary file lies beside `path` and is gone afterwards, also when
    writing fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_record(folder: Path, run: Run) -> None:
    """Write all of a run but its metrics to `folder`/run.json."""
    values = {
        "format": FORMAT,
        "title": run.title,
        "state": run.state,
        "started": run.started,
        "facts": run.facts,
        "notes": run.notes,
        "overrides": run.overrides,
        "config": run.config,
        "phases": [asdict(span) for span in run.phases],
        "layers": [asdict(row) for row in run.layers],
        "shares": run.shares,
        "masks": [_pair_to_json(pair) for pair in run.masks],
    }
    write_whole(folder / RECORD, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_run(folder: Path, label: str = "") -> Run:
    """The run of a folder, from run.json, metrics.csv or both.

    label: what tells it from others; the folder's name without one.
    Raises FileNotFoundError if neither is there, ValueError for a file that cannot be read.
    """
    path, numbers = folder / RECORD, folder / "metrics.csv"
    if not path.is_file() and not numbers.is_file():
        raise FileNotFoundError(f"{folder} is no run: it has neither {RECORD} nor metrics.csv")
    metrics = read_metrics(numbers) if numbers.is_file() else {}
    label = label or folder.resolve().name
    if not path.is_file():
        return Run(title=label, label=label, metrics=metrics)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, and this sparsetrain reads {FORMAT}")
    try:
        return _run_from_json(values, label, metrics)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path} is not as `fit` wrote it: {error!r}") from error


def _run_from_json(values: Mapping[str, Any], label: str, metrics: Any) -> Run:
    return Run(
        title=values["title"],
        label=label,
        state=values["state"],
        started=values["started"],
        facts=tuple((str(name), str(value)) for name, value in values["facts"]),
        notes=tuple(values["notes"]),
        overrides=tuple(values["overrides"]),
        config=values["config"],
        metrics=metrics,
        phases=tuple(Span(**span) for span in values["phases"]),
        layers=tuple(LayerRow(**{**row, "shape": tuple(row["shape"])}) for row in values["layers"]),
        shares=values["shares"],
        masks=tuple(_pair_from_json(pair) for pair in values["masks"]),
    )


def _pair_to_json(pair: MaskPair) -> dict[str, Any]:
    return {
        "name": pair.name,
        "of": pair.of,
        "shape": list(pair.before.shape),
        "before": _bits_to_text(pair.before),
        "after": _bits_to_text(pair.after),
    }


def _pair_from_json(values: Mapping[str, Any]) -> MaskPair:
    rows, columns = values["shape"]
    before, after = (_bits_from_text(values[key], rows, columns) for key in ("before", "after"))
    return MaskPair(values["name"], before, after, str(values.get("of", "values")))


def _bits_to_text(mask_RC: np.ndarray) -> str:
    return base64.b64encode(np.packbits(mask_RC).tobytes()).decode("ascii")


def _bits_from_text(text: str, rows: int, columns: int) -> np.ndarray:
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    if not 0 <= rows * columns <= 8 * len(packed):
        raise ValueError(f"a mask of {rows} × {columns} in {len(packed)} bytes")
    return np.unpackbits(packed, count=rows * columns).astype(bool).reshape(rows, columns)
