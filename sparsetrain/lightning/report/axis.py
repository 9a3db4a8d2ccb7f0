"""Ranges, ticks and numbers as people write them. Pure functions of floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LARGEST = 1e300  # beyond it, differences of two values overflow
_FLAT = 1e-9  # relative width under which a range is one value
_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True)
class Axis:
    """A range and the ticks inside it, ascending."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def fraction(self, value: float) -> float:
        """Where `value` lies: 0 at `low`, 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


def drawable(value: float) -> bool:
    """Whether a value can be placed on an axis: neither NaN, nor infinite, nor near overflow."""
    return abs(value) < _LARGEST


def tight_axis(values: Sequence[float], most_ticks: int) -> Axis:
    """An axis from the smallest to the largest of `values` (not empty), ticks where they fall."""
    low, high = _spread(min(values), max(values))
    step = _nice_step(low, high, most_ticks)
    first, last = math.ceil(low / step - _FLAT), math.floor(high / step + _FLAT)
    return Axis(low, high, tuple(i * step for i in range(first, last + 1)))


def rounded_axis(values: Sequence[float], most_ticks: int) -> Axis:
    """An axis around `values` (not empty) that begins and ends at a tick."""
    low, high = _spread(min(values), max(values))
    step = _nice_step(low, high, most_ticks)
    first, last = math.floor(low / step + _FLAT), math.ceil(high / step - _FLAT)
    ticks = tuple(i * step for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels that tell the ticks apart, with one unit (k, M, G) and one number of decimals."""
    top = max((abs(tick) for tick in ticks), default=0.0)
    if top and not 1e-3 <= top < 1e12:
        return ["0" if tick == 0 else f"{tick:.3g}" for tick in ticks]
    scale, suffix = _unit(top)
    scaled = [tick / scale for tick in ticks]
    step = scaled[1] - scaled[0] if len(scaled) > 1 else abs(scaled[0])
    decimals = next(
        (d for d in range(6) if all(abs(round(v, d) - v) <= step / 1000 for v in scaled)), 6
    )
    return ["0" if v == 0 else f"{v:.{decimals}f}{suffix}" for v in scaled]


def number(value: float, digits: int = 4) -> str:
    """A value in a few significant digits: 0.4123, 12.35, 12.35k, 2.1e-05, nan."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e12:
        return f"{value:.2g}"
    scale, suffix = _unit(abs(value))
    return f"{float(f'{value / scale:.{digits}g}'):g}{suffix}"


def _unit(size: float) -> tuple[float, str]:
    return next(((scale, suffix) for scale, suffix in _SUFFIXES if size >= scale), (1.0, ""))


def _spread(low: float, high: float) -> tuple[float, float]:
    """Widen a range that is a single value, so that it has a middle."""
    size = max(abs(low), abs(high))
    if high - low > max(size * _FLAT, 1e-30):
        return low, high
    pad = size * 0.1 if size > 1e-30 else 1.0
    return low - pad, high + pad


def _nice_step(low: float, high: float, most_ticks: int) -> float:
    """The smallest of 1, 2, 2.5 or 5 × 10^n that cuts the range into at most `most_ticks`."""
    raw = (high - low) / most_ticks
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - _FLAT))
