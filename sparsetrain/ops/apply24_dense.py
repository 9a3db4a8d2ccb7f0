"""apply24_dense: pack one orientation of a matrix with a given mask, and mask it besides."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_dtype, check_groups, check_mask
from sparsetrain.reference.apply24_dense import apply24_dense as reference
from sparsetrain.reference.pack24 import meta_shape24, padded_rows

torch.library.define(
    "sparsetrain::apply24_dense",
    "(Tensor x, Tensor mask, bool transposed=False, ScalarType? dtype=None)"
    " -> (Tensor values, Tensor meta, Tensor dense)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, mask: Tensor, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_mask("mask", mask, x)
    if dtype is not None:
        check_dtype("dtype", dtype)


@torch.library.register_fake("sparsetrain::apply24_dense")
def _fake(
    x: Tensor, mask: Tensor, transposed: bool = False, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    R, C = x.shape
    rows, columns = (C, padded_rows(R)) if transposed else (R, C)
    return (
        x.new_empty(rows, columns // 2, dtype=dtype or x.dtype),
        x.new_empty(meta_shape24(rows, columns), dtype=torch.uint8),
        x.new_empty(R, C, dtype=dtype or x.dtype),
    )


@torch.library.impl("sparsetrain::apply24_dense", "default")
@torch.no_grad()
def _kernel(
    x: Tensor, mask: Tensor, transposed: bool = False, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, mask, dtype)
    return reference(x, mask, transposed, dtype)


def apply24_dense(
    x: Tensor, mask: Tensor, transposed: bool = False, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pack one orientation of x with a mask, and give x under the mask besides, in one pass.

    Those are the two forms of a weight that multiplies a sparse activation in one product, where
    it is dense, and a dense tensor in the other.

    x, mask, dtype   as in apply24
    transposed       pack x.T and not x

    Returns values [R, C/2] and meta of x, or values [C, R128/2] and meta of its transpose, as
    apply24 does, and dense [R, C]: x with zeros where the mask prunes. Raises ValueError for what
    it does not take, and without a kernel for a mask that keeps more than two of four.
    """
    _check(x, mask, dtype)
    return torch.ops.sparsetrain.apply24_dense(x, mask, transposed, dtype)
