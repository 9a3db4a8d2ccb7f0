"""soft_threshold24: the continuous 2:4 projection of S-STE."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_cuda,
    check_device,
    check_dtype,
    check_groups,
    check_scalar,
)
from sparsetrain.ops.register import register
from sparsetrain.reference.soft_threshold24 import soft_threshold24 as reference


def _check(x: Tensor, scale: Tensor, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_scalar("scale", scale, torch.float32)
    check_device("scale", scale, "x", x)
    check_dtype("dtype", dtype)


_op = register(
    "soft_threshold24(Tensor x, Tensor scale, ScalarType? dtype=None) -> Tensor",
    check=_check,
    fake=lambda x, scale, dtype: x.new_empty(x.shape, dtype=dtype or x.dtype),
    kernel=reference,
)


def soft_threshold24(x: Tensor, scale: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Shrink every four values of a row by their second smallest magnitude, then scale.

    x       [R, C], C % 4 == 0
    scale   float32, one element, on x's device; reference/soft_threshold24.py computes the best
    dtype   of what is returned, x's if None

    Returns scale * sign(x) * max(|x| - t, 0), dense [R, C], at most two non-zeros per
    group. A group with a NaN is NaN. Hu et al., S-STE, NeurIPS 2024, arXiv 2409.09099.
    Kernels for CUDA take float32, bfloat16 and float16, and as dtype x's own, or from float32 one
    of the other two.
    Raises ValueError for what it does not take.
    """
    return _op(x, scale, dtype)
