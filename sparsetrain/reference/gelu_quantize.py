"""GELU, and its gradient, whose results are also quantized by row, in plain PyTorch."""

import torch
from torch import Tensor

from sparsetrain.reference.gelu import Approximate, gelu
from sparsetrain.reference.gelu_backward import gelu_backward
from sparsetrain.reference.quantize import quantize


def gelu_quantize(
    z_RC: Tensor, approximate: Approximate, dtype: torch.dtype, power_of_two: bool
) -> tuple[Tensor, Tensor]:
    """Quantize gelu(z), rounded to z's dtype first. Returns q [R, C] and scales [R, 1]."""
    return quantize(gelu(z_RC, approximate), dtype, "row", power_of_two)


def gelu_backward_quantize(
    grad_h_RC: Tensor,
    z_RC: Tensor,
    approximate: Approximate,
    dtype: torch.dtype,
    power_of_two: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give what gelu_backward gives, and grad_z quantized: q [R, C] and scales [R, 1]."""
    grad_z_RC, h_RC, column_sums = gelu_backward(grad_h_RC, z_RC, approximate)
    return grad_z_RC, h_RC, column_sums, *quantize(grad_z_RC, dtype, "row", power_of_two)
