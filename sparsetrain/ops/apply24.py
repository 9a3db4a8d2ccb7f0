"""apply24: pack a matrix with a given mask, in both orientations at once."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_dtype, check_groups, check_mask
from sparsetrain.ops.pack_into24 import empty_forms24
from sparsetrain.ops.register import register
from sparsetrain.reference.apply24 import apply24 as reference


def _check(x: Tensor, mask: Tensor, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_mask("mask", mask, x)
    check_dtype("dtype", dtype)


_op = register(
    "apply24(Tensor x, Tensor mask, ScalarType? dtype=None)"
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t)",
    check=_check,
    fake=lambda x, mask, dtype: empty_forms24(x, dtype, rows=True, columns=True)[:4],
    kernel=reference,
)


def apply24(
    x: Tensor, mask: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pack x and its transpose with a mask that keeps at most two of four in both orientations.

    x       [R, C], C % 4 == 0; R is free, the transpose is padded to R128, a multiple of 128
    mask    uint8 [R, ceil(C/8)], as select24 gives it for "transposable" or "greedy"
    dtype   of the values, x's if None

    Returns values [R, C/2], meta uint8 [ceil(C/64), ceil(R/64), 512], values_t [C, R128/2] and
    meta_t uint8 [R128/64, ceil(C/64), 512] (reference/pack24.py). Raises ValueError for what it
    does not take, and for a 4x4 tile with a row or column that keeps more than two.

    Kernels for CUDA take float32, bfloat16 and float16, and as dtype x's own, or from float32 one
    of the other two. On CUDA tensors with the kernel library the mask is not checked, which would
    wait for the device: the two lowest of a crowded group are kept.
    """
    return _op(x, mask, dtype)
