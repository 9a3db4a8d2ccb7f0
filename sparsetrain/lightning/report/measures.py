"""Numbers of a run that people ask for, from its metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from sparsetrain.lightning.report.data import Run

TOP1 = "val/top1"


@dataclass(frozen=True)
class Validation:
    """One validation. epoch: how many were trained by then; seconds: since training began, None
    where it was not logged; top1 in percent."""

    epoch: float
    seconds: float | None
    top1: float


def validations(run: Run) -> list[Validation]:
    """Every validation that logged a finite accuracy, in order."""
    seconds = dict(zip(*run.metrics.get("perf/elapsed_s", ((), ())), strict=True))
    epochs = epochs_at(run)
    return [
        Validation(epochs[step], seconds.get(step), 100 * value)
        for step, value in zip(*run.metrics.get(TOP1, ((), ())), strict=True)
        if math.isfinite(value) and step in epochs
    ]


def epochs_at(run: Run) -> dict[float, float]:
    """How many epochs were trained by the end of each logged step."""
    logged = dict(zip(*run.metrics.get("epoch", ((), ())), strict=True))
    if not logged:
        return {}
    # The last step of an epoch is the furthest in it. A run that went on from a checkpoint within
    # an epoch says the same at its ends.
    length = max((step + 1) / (epoch + 1) for step, epoch in logged.items())
    return {step: (step + 1) / length for step in logged}


def best(run: Run) -> Validation | None:
    """The validation with the highest accuracy, the first of equal ones."""
    return max(validations(run), key=lambda v: v.top1, default=None)


def seconds_to(run: Run, top1: float) -> float | None:
    """Seconds until a validation reached an accuracy (in percent); None if none did."""
    reached = (v.seconds for v in validations(run) if v.top1 >= top1 and v.seconds is not None)
    return next(reached, None)


def images_per_s(run: Run) -> float | None:
    """The median over the logged steps: the first of them wait for compilers and caches."""
    values = list(_finite(run, "perf/images_per_s"))
    return median(values) if values else None


def memory_gib(run: Run) -> float | None:
    """The peak."""
    return max(_finite(run, "perf/memory_gib"), default=None)


def elapsed_s(run: Run) -> float | None:
    """From the beginning of training to what was logged last."""
    return max(_finite(run, "perf/elapsed_s"), default=None)


def steps(run: Run) -> int | None:
    """Optimizer steps up to what was logged last."""
    last = max((step for points, _ in run.metrics.values() for step in points), default=None)
    return None if last is None else int(last) + 1


def density(run: Run) -> float | None:
    """Share of the sparse layers' weights that their products use; None without such layers."""
    rows = [(row.density, math.prod(row.shape)) for row in run.layers if row.density is not None]
    total = sum(size for _, size in rows)
    return sum(share * size for share, size in rows) / total if total else None


def is_dense(run: Run) -> bool:
    """Whether a run is known to have no sparse layer."""
    known = bool(run.layers) or run.started is not None
    return known and all(row.reason for row in run.layers)


def kind(run: Run) -> str:
    """What the sparse layers run, in words: `2:4 weights`."""
    converted = [row.runs for row in run.layers if not row.reason]
    unknown = "nothing: dense" if is_dense(run) else "not known"
    return ", ".join(dict.fromkeys(converted)) or unknown


def duration(seconds: float) -> str:
    """8 s, 12 min, 3 h 05 min."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.3g} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def _finite(run: Run, key: str) -> Iterator[float]:
    return (value for value in run.metrics.get(key, ((), ()))[1] if math.isfinite(value))
