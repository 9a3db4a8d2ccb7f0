"""apply24: pack a matrix with a given mask, in both orientations at once."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_dtype, check_groups, check_mask
from sparsetrain.reference.apply24 import apply24 as reference

torch.library.define(
    "sparsetrain::apply24",
    "(Tensor x, Tensor mask, ScalarType? dtype=None)"
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, mask: Tensor, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_mask(mask, x)
    if dtype is not None:
        check_dtype("dtype", dtype)


@torch.library.register_fake("sparsetrain::apply24")
def _fake(
    x: Tensor, mask: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    R, C = x.shape
    R4 = (R + 3) // 4 * 4
    return (
        x.new_empty(R, C // 2, dtype=dtype or x.dtype),
        x.new_empty(R, (C + 7) // 8, dtype=torch.uint8),
        x.new_empty(C, R4 // 2, dtype=dtype or x.dtype),
        x.new_empty(C, (R4 + 7) // 8, dtype=torch.uint8),
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

    x       [R, C], C % 4 == 0; R is free, the transpose is padded to R4, a multiple of four
    mask    uint8 [R, ceil(C/8)], as select24 gives it for "transposable" or "greedy"
    dtype   of the values, x's if None

    Returns values [R, C/2], meta uint8 [R, ceil(C/8)], values_t [C, R4/2] and
    meta_t uint8 [C, ceil(R4/8)] (reference/pack24.py). Raises ValueError for what it does not
    take, and for a 4x4 tile with a row or column that keeps more than two.
    """
    _check(x, mask, dtype)
    return torch.ops.sparsetrain.apply24(x, mask, dtype)
