"""What patterns that keep a share of the highest scores have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def check_density(density: float) -> None:
    """Raise ValueError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise ValueError(f"density={density}: give the share of values kept, above 0 and at most 1")


def highest(score: Tensor, density: float) -> Tensor:
    """The share of the highest scores as bool, at least one; ties keep the first. NaN is lowest."""
    flat = torch.nan_to_num(score.flatten(), nan=-torch.inf)
    kept = max(1, round(density * flat.numel()))
    places = flat.sort(descending=True, stable=True).indices[:kept]
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[places] = True
    return mask.reshape(score.shape)
