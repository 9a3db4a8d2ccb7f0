"""What patterns that keep a share of the highest scores have in common."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor


def check_density(density: Any) -> None:
    """Raise ValueError unless 0 < density <= 1."""
    number = isinstance(density, int | float) and not isinstance(density, bool)
    if not (number and 0 < density <= 1):
        raise ValueError(
            f"density={density!r}: give the share of values kept, above 0 and at most 1"
        )


def check_counts(pattern: object, *names: str) -> None:
    """Raise ValueError unless these fields of a pattern are whole numbers, at least 1."""
    for name in names:
        value = getattr(pattern, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}: give a whole number, at least 1")


def highest(score: Tensor, density: float) -> Tensor:
    """The share of the highest scores as bool, at least one; ties keep the first. NaN is lowest."""
    flat = torch.nan_to_num(score.flatten(), nan=-torch.inf)
    kept = max(1, round(density * flat.numel()))
    places = flat.sort(descending=True, stable=True).indices[:kept]
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[places] = True
    return mask.reshape(score.shape)
