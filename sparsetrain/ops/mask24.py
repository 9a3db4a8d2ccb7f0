"""mask24: one factor for what a mask keeps, another for what it does not."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_dtype, check_groups, check_mask
from sparsetrain.ops.register import register
from sparsetrain.reference.mask24 import mask24 as reference


def _check(x: Tensor, mask: Tensor, kept: float, pruned: float, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_mask("mask", mask, x)
    check_dtype("dtype", dtype)


_op = register(
    "mask24(Tensor x, Tensor mask, float kept=1.0, float pruned=0.0, ScalarType? dtype=None)"
    " -> Tensor",
    check=_check,
    fake=lambda x, mask, kept, pruned, dtype: x.new_empty(x.shape, dtype=dtype or x.dtype),
    kernel=reference,
)


def mask24(
    x: Tensor,
    mask: Tensor,
    kept: float = 1.0,
    pruned: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Give x * where(mask, kept, pruned).

    x      [R, C], C % 4 == 0
    mask   uint8 [R, ceil(C/8)], as select24 gives it; any bits
    dtype  of what is returned, x's if None

    Returns [R, C]. A factor of 0 gives exactly 0, of NaN and infinities too; a factor of 1 gives x
    exactly, rounded to dtype. Kernels for CUDA take float32, bfloat16 and float16, and as dtype x's
    own, or from float32 one of the other two. Raises ValueError for what it does not take.
    """
    return _op(x, mask, kept, pruned, dtype)
