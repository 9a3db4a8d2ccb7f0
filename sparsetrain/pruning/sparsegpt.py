"""SparseGPT: prune column by column, and let the columns to come make up for it.

What it does    H = XᵀX + λI over calibration tokens. From left to right: what column j loses is
                subtracted from the columns behind it along the Cholesky factor of H⁻¹, which is
                the least-squares step. The mask is chosen from w² / [H⁻¹]ⱼⱼ of what the weights
                have become: of a 2:4 group when its first column is reached, of an unstructured
                mask for `columns` columns at a time
When            without retraining, where Wanda loses too much
Cost            a forward over the calibration data; an I × I matrix in float64 and its inverse
                (I³ steps), then O · I² for the update
Source          Frantar & Alistarh, ICML 2023, arXiv 2301.00774

Dimension key:  O output features   I input features   B columns of a batch
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsetrain.patterns import NM, Pattern, Unstructured
from sparsetrain.patterns.ranked import highest
from sparsetrain.pruning.choose import choose
from sparsetrain.pruning.statistics import Inputs, Reads
from sparsetrain.select import Selection


@dataclass(frozen=True)
class SparseGPT:
    """Prune from left to right and update the columns behind.

    damp: λ as a share of the mean diagonal of XᵀX. columns: how many columns wait for their update
    together, and share a threshold where the pattern is unstructured; a multiple of 4.

    Masks of other patterns (blocks) are chosen once, from the weights as they are. An input that
    is always zero loses nothing: its weights are pruned first, and are not changed where kept.

    Raises ValueError for a damp that is not positive, or columns that are no multiple of 4.
    """

    damp: float = 0.01
    columns: int = 128
    reads: ClassVar[Reads] = "gram"

    def __post_init__(self) -> None:
        if not (isinstance(self.damp, (int, float)) and 0 < self.damp < math.inf):
            raise ValueError(f"damp={self.damp!r}: give a positive share of the mean diagonal")
        if not isinstance(self.columns, int) or self.columns < 4 or self.columns % 4:
            raise ValueError(f"columns={self.columns!r}: give a multiple of 4")

    def prune(
        self, weight_OI: Tensor, inputs: Inputs | None, pattern: Pattern, selection: Selection
    ) -> tuple[Tensor, Tensor]:
        """The updated weight [O, I] with zeros, in its dtype, and its mask, bool [O, I]."""
        assert inputs is not None, "prune collects what a method reads"
        factor_II = inverse_factor(inputs.gram_II, self.damp)
        # What a weight is worth, as the square root of its saliency.
        worth_I = (inputs.gram_II.diagonal() > 0) / factor_II.diagonal()
        work_OI = weight_OI.double()
        mask_OI = torch.ones_like(work_OI, dtype=torch.bool)
        by_batch, by_group = isinstance(pattern, Unstructured), isinstance(pattern, NM)
        if not by_batch and not by_group:
            mask_OI = choose(work_OI.abs() * worth_I, pattern, selection)
        for start in range(0, work_OI.shape[1], self.columns):
            stop = min(start + self.columns, work_OI.shape[1])
            if isinstance(pattern, Unstructured):
                score_OB = work_OI[:, start:stop].abs() * worth_I[start:stop]
                density = max(pattern.density, 1 / work_OI.numel())  # one at least, as by magnitude
                mask_OI[:, start:stop] = _share(score_OB, density, start, stop)
            errors_OB = torch.zeros_like(work_OI[:, start:stop])
            for j in range(start, stop):
                if by_group and j % 4 == 0:
                    score_O4 = work_OI[:, j : j + 4].abs() * worth_I[j : j + 4]
                    mask_OI[:, j : j + 4] = choose(score_O4, pattern, selection)
                error_O = work_OI[:, j].masked_fill(mask_OI[:, j], 0.0) / factor_II[j, j]
                work_OI[:, j:stop] -= torch.outer(error_O, factor_II[j, j:stop])
                errors_OB[:, j - start] = error_O
            work_OI[:, stop:] -= errors_OB @ factor_II[start:stop, stop:]
        return (work_OI * mask_OI).to(weight_OI.dtype), mask_OI


def inverse_factor(gram_II: Tensor, damp: float) -> Tensor:
    """The upper Cholesky factor U of (XᵀX + λI)⁻¹ = UᵀU, float64 [I, I].

    Row j of U, divided by its diagonal, is the update by the inverse of the Hessian of columns j
    to the last. An input that is always zero gets a diagonal of 1. Raises ValueError for a damp
    that leaves a singular matrix.
    """
    diagonal_I = gram_II.diagonal()
    added_I = damp * diagonal_I.mean() + (diagonal_I == 0)
    hessian_II = gram_II + torch.diag(added_I)
    inverse_II = torch.cholesky_inverse(_cholesky(hessian_II, damp, upper=False))
    return _cholesky(inverse_II, damp, upper=True)


def _cholesky(x_II: Tensor, damp: float, *, upper: bool) -> Tensor:
    factor_II, info = torch.linalg.cholesky_ex(x_II, upper=upper)
    if info:
        raise ValueError(
            f"damp={damp}: XᵀX of the calibration inputs is singular to float64 with so little "
            "added; give a larger damp, as 0.01"
        )
    return factor_II


def _share(score_OB: Tensor, density: float, start: int, stop: int) -> Tensor:
    """The highest scores of columns start to stop: as many as bring the kept ones up to the
    density of all columns so far."""
    rows = len(score_OB)
    kept = round(density * rows * stop) - round(density * rows * start)
    if not kept:
        return torch.zeros_like(score_OB, dtype=torch.bool)
    return highest(score_OB, kept / score_OB.numel())
