"""apply24: pack a matrix with a given mask, in both orientations at once."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_dtype, check_groups, check_mask
from sparsetrain.reference.apply24 import apply24 as reference
from sparsetrain.reference.pack24 import meta_shape24, padded_rows

torch.library.define(
    "sparsetrain::apply24",
    "(Tensor x, Tensor mask, ScalarType? dtype=None)"
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, mask: Tensor, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_mask("mask", mask, x)
    if dtype is not None:
        check_dtype("dtype", dtype)


@torch.library.register_fake("sparsetrain::apply24")
def _fake(
    x: Tensor, mask: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    R, C = x.shape
    R128 = padded_rows(R)
    return (
        x.new_empty(R, C // 2, dtype=dtype or x.dtype),
        x.new_empty(meta_shape24(R, C), dtype=torch.uint8),
        x.new_empty(C, R128 // 2, dtype=dtype or x.dtype),
        x.new_empty(meta_shape24(C, R128), dtype=torch.uint8),
    )


@torch.library.impl("sparsetrain::apply24", "default")
@torch.no_grad()
def _kernel(
    x: Tensor, mask: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(x, mask, dtype)
    return reference(x, mask, dtype)


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
    _check(x, mask, dtype)
    return torch.ops.sparsetrain.apply24(x, mask, dtype)
