"""What a run report says. Plain values only: no model, no trainer, no config object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MASK_SIDE = 64  # rows and columns a mask picture may have; larger ones turn into grey noise


@dataclass(frozen=True)
class Series:
    """One line of a chart: `values[i]` was measured at `steps[i]`, in that order.

    Non-finite values are allowed and break the line. Raises `ValueError` when the lengths differ
    or a step is not finite.
    """

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(
                f"series {self.name!r} has {len(self.steps)} steps but {len(self.values)} values; "
                "give one step per value"
            )
        bad = [step for step in self.steps if not math.isfinite(step)]
        if bad:
            raise ValueError(
                f"series {self.name!r} has the step {bad[0]}; leave out values without a step"
            )


@dataclass(frozen=True)
class Span:
    """A shaded stretch of the x axis, `start` to `stop` in steps: a phase of the schedule.

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
class Curve:
    """One chart. `unit` is shown beside the title; empty for a plain ratio."""

    title: str
    unit: str
    series: tuple[Series, ...]
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class LayerRow:
    """One layer of the model. A `reason` makes it a skipped layer, listed below the others.

    `density`, `kept_energy` and `flip_rate` are fractions in [0, 1]; None where not measured.
    """

    name: str
    shape: tuple[int, ...]
    runs: str = ""
    engine: str = ""
    density: float | None = None
    kept_energy: float | None = None
    flip_rate: float | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class MaskPair:
    """A corner of one layer's mask at two times: bool [R, C] each, 1 to 64 rows and columns.

    Raises `ValueError` for another dtype, rank or size, or when the two shapes differ.
    """

    name: str
    before: Tensor
    after: Tensor

    def __post_init__(self) -> None:
        for which, mask in (("before", self.before), ("after", self.after)):
            if mask.dtype != torch.bool or mask.ndim != 2:
                raise ValueError(
                    f"{which} of mask {self.name!r} is {mask.dtype} {list(mask.shape)}; "
                    "give a bool tensor [R, C]"
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


@dataclass(frozen=True)
class RunReport:
    """Everything on the page, top to bottom. `summary` holds (label, value); an empty part is left
    out of the page. `notes` stand in a banner under the title, `shares` above the layers."""

    title: str
    summary: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    shares: str = ""
    masks: tuple[MaskPair, ...] = ()
    config_yaml: str = ""
