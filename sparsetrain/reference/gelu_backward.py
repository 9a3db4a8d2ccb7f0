"""The gradient of GELU, and what else the same z gives, in plain PyTorch."""

import torch
from torch import Tensor

from sparsetrain.reference.gelu import Approximate, gelu


def gelu_backward(
    grad_h_RC: Tensor, z_RC: Tensor, approximate: Approximate
) -> tuple[Tensor, Tensor, Tensor]:
    """Give gelu'(z) grad_h and gelu(z), [R, C] contiguous in z's dtype, and column_sums [C].

    Computed in float32 (float64 for float64). column_sums adds up the gradient before it is
    rounded; no rows sum to 0. PyTorch's own slope of an infinite z is NaN, and so is this one.
    """
    wide = torch.promote_types(z_RC.dtype, torch.float32)
    grad_RC, wide_RC = grad_h_RC.to(wide).contiguous(), z_RC.to(wide).contiguous()
    grad_z_RC = torch.ops.aten.gelu_backward(grad_RC, wide_RC, approximate=approximate)
    return grad_z_RC.to(z_RC.dtype), gelu(z_RC, approximate), grad_z_RC.sum(0)
