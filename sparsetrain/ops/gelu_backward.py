"""gelu_backward: the gradient of GELU, the activation again, and the gradient of the bias."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_alike, check_cuda, check_matrix, check_shape
from sparsetrain.ops.gelu import check_approximate
from sparsetrain.ops.register import register
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.gelu_backward import gelu_backward as reference


def check_gelu_backward(grad_h: Tensor, z: Tensor, approximate: str) -> None:
    """Refuse what the gradient of GELU does not take."""
    check_matrix("grad_h", grad_h)
    check_cuda("grad_h", grad_h)
    check_approximate(approximate)
    check_alike("z", z, "grad_h", grad_h)
    check_shape("z", z, tuple(grad_h.shape), "that of grad_h")


def fake_gelu_backward(grad_h: Tensor, z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised grad_z, h and column_sums."""
    sums = z.new_empty(z.shape[1], dtype=torch.promote_types(z.dtype, torch.float32))
    return z.new_empty(z.shape), z.new_empty(z.shape), sums


_op = register(
    "gelu_backward(Tensor grad_h, Tensor z, str approximate='none')"
    " -> (Tensor grad_z, Tensor h, Tensor column_sums)",
    check=check_gelu_backward,
    fake=fake_gelu_backward,
    kernel=reference,
)


def gelu_backward(
    grad_h: Tensor, z: Tensor, approximate: Approximate = "none"
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradient of z for that of h = gelu(z), h again, and the gradient summed over rows.

    grad_h, z    [R, C] of one dtype, any strides
    approximate  "none", or "tanh" for the approximation with it

    Returns grad_z = gelu'(z) grad_h and h, [R, C] in z's dtype, and column_sums, float32 [C]
    (float64 for float64): grad_z before it is rounded, the gradient of a bias, always in the same
    order. z is read once for all three, so h need not be kept from the forward. Kernels for CUDA
    take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    return _op(grad_h, z, approximate)
