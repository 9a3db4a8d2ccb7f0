"""What calibration keeps of a layer's inputs: sums over tokens, never the tokens.

Dimension key:  T tokens   I input features
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reads = Literal["nothing", "norms", "gram"]
"""What a method reads of a layer's inputs X [T, I]: the norms of its columns, or all of XᵀX."""


class Inputs:
    """Sums over the inputs of one layer, in float64: [I] for its norms, or [I, I] for its Gram
    matrix.

    Float64, because XᵀX is factored: what float32 rounds of a sum of 100,000 tokens is more than
    the smallest eigenvalues of real inputs.
    """

    def __init__(self, features: int, reads: Reads, device: torch.device) -> None:
        shape = (features, features) if reads == "gram" else (features,)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.tokens = 0

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Add inputs [..., I], one token if [I]. Raises ValueError where they are not finite."""
        x_TI = x.detach().reshape(-1, x.shape[-1]).to(self.sums.device, torch.float64)
        added = x_TI.T @ x_TI if self.sums.ndim == 2 else x_TI.square().sum(0)
        if not added.isfinite().all():
            raise ValueError("its inputs are not finite on the calibration data")
        self.sums += added
        self.tokens += len(x_TI)

    @property
    def gram_II(self) -> Tensor:
        """XᵀX, float64 [I, I]."""
        assert self.sums.ndim == 2, "collected for a method that reads it"
        return self.sums

    @property
    def norms_I(self) -> Tensor:
        """‖X_j‖₂ of each feature over all tokens, float64 [I]."""
        squares = self.sums.diagonal() if self.sums.ndim == 2 else self.sums
        return squares.sqrt()
