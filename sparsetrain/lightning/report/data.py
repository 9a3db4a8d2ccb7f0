"""What a report says of a run. Plain values only: no model, no trainer, no config object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Metrics = dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
"""Steps and values of each metric."""

MASK_SIDE = 64  # rows and columns a mask picture may have; larger ones turn into grey noise


@dataclass(frozen=True)
class Span:
    """A phase of the schedule, from step `start` to before step `stop`: a shaded stretch of charts.

    Raises `ValueError` unless `start <= stop` (which also refuses NaN).
    """

    label: str
    start: float
    stop: float

    def __post_init__(self) -> None:
        if not self.start <= self.stop:
            raise ValueError(
                f"span {self.label!r} runs from {self.start} to {self.stop}; "
                "give numbers with start <= stop"
            )


@dataclass(frozen=True)
class LayerRow:
    """One layer of the model. A `reason` makes it a skipped layer, listed below the others.

    `density`, `kept_energy` and `flip_rate` are fractions in [0, 1]; None where not measured.
    `outer_energy`: kept by the outer level of a pattern of two, as blocks with 2:4 inside.
    """

    name: str
    shape: tuple[int, ...]
    runs: str = ""
    engine: str = ""
    density: float | None = None
    kept_energy: float | None = None
    flip_rate: float | None = None
    reason: str = ""
    outer_energy: float | None = None


@dataclass(frozen=True, eq=False)
class MaskPair:
    """A corner of one layer's mask at two times: bool [R, C] each, 1 to 64 rows and columns.

    of: what a place of it is, as "values" or "blocks of 64×64".

    Raises `ValueError` for another dtype, rank or size, or when the two shapes differ.
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    of: str = "values"

    def __post_init__(self) -> None:
        for which, mask in (("before", self.before), ("after", self.after)):
            if mask.dtype != np.bool_ or mask.ndim != 2:
                raise ValueError(
                    f"{which} of mask {self.name!r} is {mask.dtype} {list(mask.shape)}; "
                    "give a bool array [R, C]"
                )
            if not all(1 <= side <= MASK_SIDE for side in mask.shape):
                raise ValueError(
                    f"{which} of mask {self.name!r} is {list(mask.shape)}; give a corner of 1 to "
                    f"{MASK_SIDE} rows and columns: mask[:{MASK_SIDE}, :{MASK_SIDE}]"
                )
        if self.before.shape != self.after.shape:
            raise ValueError(
                f"mask {self.name!r} is {list(self.before.shape)} before and "
                f"{list(self.after.shape)} after; take the same corner twice"
            )


@dataclass(frozen=True, eq=False)
class Run:
    """What the folder of a run says. Empty where it says nothing.

    label: what tells it from other runs on a page. state: running, finished, or why it stopped.
    facts: (label, value), from the command to the hardware. config: as composed, plain values.
    metrics: of metrics.csv, (steps, values) by name. started: seconds since 1970.
    """

    title: str
    label: str
    state: str = ""
    started: float | None = None
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    phases: tuple[Span, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    shares: str = ""
    masks: tuple[MaskPair, ...] = ()
