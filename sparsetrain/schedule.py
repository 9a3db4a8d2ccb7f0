"""When a run is dense and when it is sparse: pure functions of the optimizer step."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

Phase = Literal["dense_warmup", "sparse", "dense_tail"]
PHASE_NAMES: dict[Phase, str] = {
    "dense_warmup": "dense warm-up",
    "sparse": "sparse",
    "dense_tail": "dense tail",
}
"""As people read them."""


@dataclass(frozen=True)
class Schedule:
    """Phases and mask updates of a sparse run, counted in optimizer steps (not batches).

    dense_warmup: fraction of all steps trained dense at the start, in [0, 1].
    dense_tail: fraction of all steps trained dense at the end, in [0, 1].
        1/6 in FST (Hu et al., ICML 2024).
    mask_every: steps between two choices of the masks. 40 in FST.
    ramp: fraction of all steps over which the density of patterns that are not n:m falls from 1 to
        theirs, from the first sparse step on; by a cubic (Zhu & Gupta 2017, arXiv 1710.01878).
    freeze_at: fraction of all steps after which the masks stay as they are; None: never.
        0.0 chooses them once, at the first sparse step.
    """

    dense_warmup: float = 0.0
    dense_tail: float = 0.0
    mask_every: int = 1
    freeze_at: float | None = None
    ramp: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dense_warmup", "dense_tail", "freeze_at", "ramp"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) or (name == "freeze_at" and value is None)
            if not number or (value is not None and not 0.0 <= value <= 1.0):
                raise ValueError(f"schedule.{name}={value!r}: give a fraction of the run in [0, 1]")
        if self.dense_warmup + self.dense_tail > 1.0:
            raise ValueError(
                f"schedule.dense_warmup={self.dense_warmup} and dense_tail={self.dense_tail} "
                "add up to more than the whole run: lower one"
            )
        if not _counts(self.mask_every):
            raise ValueError(f"schedule.mask_every={self.mask_every!r}: give a whole number ≥ 1")


def _counts(value: Any) -> bool:
    """Whether it is a whole number, at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_total(schedule: Schedule, total: int | None) -> None:
    """Refuse a run without an end whose schedule is in fractions of it. Raises ValueError."""
    fractions = schedule.dense_warmup, schedule.dense_tail, schedule.freeze_at, schedule.ramp
    if total is None and any(fractions):
        raise ValueError(
            "total_steps=None: the run has no end that dense_warmup, dense_tail, freeze_at and "
            "ramp of the schedule could be a fraction of; give the number of optimizer steps"
        )
    if total is not None and not _counts(total):
        raise ValueError(f"total_steps={total!r}: give the number of optimizer steps, at least 1")


def sparse_span(schedule: Schedule, total: int | None) -> tuple[int, int]:
    """First sparse step and first step of the dense tail, of `total` optimizer steps."""
    if total is None:
        return 0, sys.maxsize
    return round(schedule.dense_warmup * total), total - round(schedule.dense_tail * total)


def phase(schedule: Schedule, step: int, total: int | None) -> Phase:
    """The phase of optimizer step `step` (0-based) of `total`; past the end, the last one's."""
    start, stop = sparse_span(schedule, total)
    step = step if total is None else min(step, total - 1)
    if step < start:
        return "dense_warmup"
    return "sparse" if step < stop else "dense_tail"


def mask_due(schedule: Schedule, step: int, total: int | None) -> bool:
    """Whether the masks are chosen anew before optimizer step `step`.

    Dense phases keep a virtual mask at the same pace, so that its flip rate can be watched.
    """
    start, _ = sparse_span(schedule, total)
    if step in (0, start):
        return True
    return step % schedule.mask_every == 0 and not frozen(schedule, step, total)


def frozen(schedule: Schedule, step: int, total: int | None) -> bool:
    """Whether masks stay as they are from optimizer step `step` on."""
    if schedule.freeze_at is None:
        return False
    return step >= (0 if total is None else round(schedule.freeze_at * total))


def masks_done(schedule: Schedule, step: int, total: int | None) -> float:
    """Of the steps in which masks change, the share before optimizer step `step`; 0 in a run
    without an end."""
    if total is None:
        return 0.0
    start, stop = sparse_span(schedule, total)
    if schedule.freeze_at is not None:
        stop = min(stop, round(schedule.freeze_at * total))
    return min(max((step - start) / max(stop - start, 1), 0.0), 1.0)


def density(schedule: Schedule, step: int, total: int | None, end: float) -> float:
    """The share kept before optimizer step `step` by a pattern of density `end`:
    end + (1 − end)(1 − t)³ over the ramp."""
    length = 0 if total is None else round(schedule.ramp * total)
    start, _ = sparse_span(schedule, total)
    left = 1.0 - (step - start) / length if length else 0.0
    return end + (1.0 - end) * min(max(left, 0.0), 1.0) ** 3
