"""Fit the kept weights of a layer to its output again, by least squares.

Dimension key:  O output features   I input features   K kept input features of a row
"""

from __future__ import annotations

import torch
from torch import Tensor


def refit_weights(weight_OI: Tensor, pruned_OI: Tensor, mask_OI: Tensor, gram_II: Tensor) -> Tensor:
    """Change the kept values of `pruned_OI` so that ‖X (W − Ŵ)ᵀ‖ is least, row by row.

    weight_OI: before pruning. gram_II: XᵀX of the layer's inputs, float64. Returns [O, I] in the
    dtype of `pruned_OI`; a row whose rounded values would do worse stays as it is.

    Solved for the change, (G_KK + λI) δ_K = G_K: (w − ŵ), so that λ pulls to what was there and can
    raise no error. λ is 1e-10 of G's trace, above what float64 rounds; a second solve, for what
    the first left, takes its pull away. Rows with one support are solved together. O · K³ steps at
    most.
    """
    before_OI, change_OI = weight_OI.double(), torch.zeros_like(pruned_OI, dtype=torch.float64)
    wanted_OI = (before_OI - pruned_OI.double()) @ gram_II
    ridge = 1e-10 * gram_II.diagonal().sum()
    supports, which_O = torch.unique(mask_OI, dim=0, return_inverse=True)
    for number, support_I in enumerate(supports):
        kept_K = support_I.nonzero().squeeze(1)
        if not len(kept_K) or ridge == 0:
            continue
        rows = (which_O == number).nonzero()
        system_KK, wanted_KR = gram_II[kept_K[:, None], kept_K], wanted_OI[rows, kept_K].T
        factor_KK = torch.linalg.cholesky(system_KK + ridge * torch.eye(len(kept_K)).to(system_KK))
        solved_KR = torch.cholesky_solve(wanted_KR, factor_KK)
        solved_KR += torch.cholesky_solve(wanted_KR - system_KK @ solved_KR, factor_KK)
        change_OI[rows, kept_K] = solved_KR.T
    fitted_OI = (pruned_OI.double() + change_OI).to(pruned_OI.dtype)
    better_O = row_errors(weight_OI, fitted_OI, gram_II) < row_errors(weight_OI, pruned_OI, gram_II)
    return torch.where(better_O[:, None], fitted_OI, pruned_OI)


def row_errors(weight_OI: Tensor, other_OI: Tensor, gram_II: Tensor) -> Tensor:
    """‖X (w − ŵ)‖² of each row, float64 [O]."""
    lost_OI = weight_OI.double() - other_OI.double()
    return ((lost_OI @ gram_II) * lost_OI).sum(1)


def output_error(weight_OI: Tensor, pruned_OI: Tensor, gram_II: Tensor) -> float:
    """‖X (W − Ŵ)ᵀ‖ / ‖X Wᵀ‖ of a layer; 0 where its output is zero."""
    whole = row_errors(weight_OI, torch.zeros_like(weight_OI), gram_II).sum()
    lost = row_errors(weight_OI, pruned_OI, gram_II).sum().clamp(min=0.0)
    return float((lost / whole).sqrt()) if whole > 0 else 0.0
