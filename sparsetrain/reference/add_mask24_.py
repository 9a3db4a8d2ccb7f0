"""Add a matrix, times one factor where a mask keeps and another where it does not, in place."""

import torch
from torch import Tensor

from sparsetrain.reference.mask24 import mask24


def add_mask24_(
    out_RC: Tensor, x_RC: Tensor, mask: Tensor, kept: float, pruned: float, scale: Tensor | None
) -> None:
    """out += scale * x * where(mask, kept, pruned); mask is bits, scale float32, one element.

    Computed in float32 (float64 for float64) in this order, each step rounded, and rounded to the
    dtype of out at the end. A factor of 0 adds exactly 0.
    """
    wide = torch.promote_types(out_RC.dtype, torch.float32)
    term_RC = mask24(x_RC.to(wide), mask, kept, pruned)
    if scale is not None:
        term_RC = term_RC * scale.reshape(()).to(wide)
    out_RC.copy_(out_RC.to(wide) + term_RC)
