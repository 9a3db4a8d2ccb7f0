"""What a mask keeps of a matrix, against the best that a transposable 2:4 mask can keep.

Dimension key:  R rows   C columns   T 4x4 tiles   P the 90 patterns
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.reference.masks24 import PATTERNS

TILES = 2**18
"""About as many tiles are looked at, in whole rows of tiles spread over the matrix."""

_TILES_AT_ONCE = 2**16  # [T, 90] in float64 is 47 MB


@dataclass(frozen=True)
class Quality:
    """Shares, 1 is all. A row mask is free of the columns and may keep more than the optimum.

    energy            kept x² of all x²
    energy_of_best    kept x² of what the best pattern for x² keeps
    sum_of_best       kept |x| of what the best pattern for |x| keeps
    worst_energy      the smallest energy_of_best of a single tile
    worst_sum         the smallest sum_of_best of a single tile
    tiles             how many were looked at
    """

    energy: float
    energy_of_best: float
    sum_of_best: float
    worst_energy: float
    worst_sum: float
    tiles: int


@torch.no_grad()
def quality(x_RC: Tensor, mask_RC: Tensor, tiles: int = TILES) -> Quality:
    """Measure a bool mask [R, C] on x, in float64. R >= 4 and C % 4 == 0; finite values."""
    every = max(1, (x_RC.shape[0] // 4) * (x_RC.shape[1] // 4) // tiles)
    x_T16, mask_T16 = _tiles(x_RC, every), _tiles(mask_RC, every)
    pattern_P16 = PATTERNS.flatten(1).to(x_RC.device, torch.float64)
    sums = torch.zeros(5, dtype=torch.float64, device=x_RC.device)
    worst = torch.ones(2, dtype=torch.float64, device=x_RC.device)
    chunks = x_T16.split(_TILES_AT_ONCE), mask_T16.split(_TILES_AT_ONCE)
    for x, mask in zip(*chunks, strict=True):
        a = x.double().abs()
        kept_2T = torch.stack([(a.square() * mask).sum(dim=1), (a * mask).sum(dim=1)])
        best_2T = torch.stack([(v @ pattern_P16.T).amax(dim=1) for v in (a.square(), a)])
        sums += torch.cat([a.square().sum()[None], kept_2T.sum(dim=1), best_2T.sum(dim=1)])
        share_2T = torch.where(best_2T > 0, kept_2T / best_2T, 1.0)
        worst = torch.minimum(worst, share_2T.amin(dim=1))
    energy, kept_energy, kept_sum, best_energy, best_sum = sums.tolist()
    worst_energy, worst_sum = worst.tolist()
    return Quality(
        energy=kept_energy / energy,
        energy_of_best=kept_energy / best_energy,
        sum_of_best=kept_sum / best_sum,
        worst_energy=worst_energy,
        worst_sum=worst_sum,
        tiles=x_T16.shape[0],
    )


def _tiles(x_RC: Tensor, every: int) -> Tensor:
    R, C = x_RC.shape
    rows = x_RC[: R // 4 * 4].reshape(R // 4, 4, C // 4, 4)[::every]
    return rows.transpose(1, 2).reshape(-1, 16)
