"""Sums over the rows of a matrix, in plain PyTorch."""

import torch
from torch import Tensor


def column_sums(x_RC: Tensor) -> Tensor:
    """Give x summed over rows, [C]: float32, or float64 for float64. No rows sum to 0."""
    return x_RC.sum(0, dtype=torch.promote_types(x_RC.dtype, torch.float32))
