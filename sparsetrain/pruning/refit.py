"""Fit the kept weights of a layer to its output again, by least squares.

Dimension key:  O output features   I input features   K kept input features of a row
"""

from __future__ import annotations

from collections.abc import Iterator

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
    if ridge > 0:
        for rows_BR, kept_BK in _systems(mask_OI):
            wanted_BKR = wanted_OI[rows_BR[:, None, :], kept_BK[:, :, None]]
            solved_BKR = _solve(gram_II, kept_BK, wanted_BKR, ridge)
            change_OI[rows_BR[:, None, :], kept_BK[:, :, None]] = solved_BKR
    fitted_OI = (pruned_OI.double() + change_OI).to(pruned_OI.dtype)
    better_O = row_errors(weight_OI, fitted_OI, gram_II) < row_errors(weight_OI, pruned_OI, gram_II)
    return torch.where(better_O[:, None], fitted_OI, pruned_OI)


def _systems(mask_OI: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows [B, R] that are solved at once, and the inputs that they keep, [B, K]: R rows of one
    support, or B rows of as many kept inputs."""
    supports, which_O, rows = torch.unique(mask_OI, dim=0, return_inverse=True, return_counts=True)
    kept_S = supports.sum(1)
    for number in ((rows > 1) & (kept_S > 0)).nonzero().flatten().tolist():
        kept_K = supports[number].nonzero().flatten()
        yield (which_O == number).nonzero().T, kept_K[None]
    alone_O = (rows[which_O] == 1) & (kept_S[which_O] > 0)
    counts_O = kept_S[which_O]
    for count in counts_O[alone_O].unique().tolist():
        rows_B = (alone_O & (counts_O == count)).nonzero().flatten()
        for part_B in rows_B.split(_rows_at_once(count, mask_OI.device)):
            yield part_B[:, None], mask_OI[part_B].nonzero()[:, 1].view(len(part_B), count)


def _rows_at_once(count: int, device: torch.device) -> int:
    # Systems of 16 MB stay near a CPU, which solves one by one; 1 GB keep a GPU busy.
    return max(1, (2**24 if device.type == "cpu" else 2**30) // (8 * count**2))


def _solve(gram_II: Tensor, kept_BK: Tensor, wanted_BKR: Tensor, ridge: Tensor) -> Tensor:
    system_BKK = gram_II[kept_BK[:, :, None], kept_BK[:, None, :]]
    pulled_BKK = system_BKK.clone()
    pulled_BKK.diagonal(dim1=1, dim2=2).add_(ridge)
    factor_BKK = torch.linalg.cholesky(pulled_BKK)
    solved_BKR = torch.cholesky_solve(wanted_BKR, factor_BKK)
    return solved_BKR + torch.cholesky_solve(wanted_BKR - system_BKK @ solved_BKR, factor_BKK)


def row_errors(weight_OI: Tensor, other_OI: Tensor, gram_II: Tensor) -> Tensor:
    """‖X (w − ŵ)‖² of each row, float64 [O]."""
    lost_OI = weight_OI.double() - other_OI.double()
    return ((lost_OI @ gram_II) * lost_OI).sum(1)


def output_error(weight_OI: Tensor, pruned_OI: Tensor, gram_II: Tensor) -> float:
    """‖X (W − Ŵ)ᵀ‖ / ‖X Wᵀ‖ of a layer; 0 where its output is zero."""
    whole = row_errors(weight_OI, torch.zeros_like(weight_OI), gram_II).sum()
    lost = row_errors(weight_OI, pruned_OI, gram_II).sum().clamp(min=0.0)
    return float((lost / whole).sqrt()) if whole > 0 else 0.0
