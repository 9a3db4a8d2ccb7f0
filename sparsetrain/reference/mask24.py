"""Multiply a matrix by one factor where a mask keeps and by another where it does not."""

import torch
from torch import Tensor

from sparsetrain.reference.masks24 import unpack_bits


def mask24(
    x_RC: Tensor, mask: Tensor, kept: float, pruned: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Give x * where(mask, kept, pruned), [R, C] contiguous; mask is bits.

    A factor of 0 gives exactly 0, of NaN and infinities too; a factor of 1 gives x exactly.
    Multiplied in x's dtype, then rounded to dtype, x's if None.
    """
    mask_RC = unpack_bits(mask, x_RC.shape[1])
    scaled_RC = torch.where(mask_RC, _scaled(x_RC, kept), _scaled(x_RC, pruned))
    return scaled_RC.to(dtype or x_RC.dtype).contiguous()


def _scaled(x_RC: Tensor, factor: float) -> Tensor:
    return torch.zeros_like(x_RC) if factor == 0 else x_RC * factor
