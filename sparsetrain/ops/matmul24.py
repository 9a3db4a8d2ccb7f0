"""matmul24: a packed 2:4 matrix times a dense one."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_device,
    check_matrix,
    check_packed,
    check_same_dtype,
    check_shape,
)
from sparsetrain.reference.matmul24 import matmul24 as reference
from sparsetrain.reference.pack24 import PADDED, padded_rows

torch.library.define(
    "sparsetrain::matmul24",
    "(Tensor values, Tensor meta, Tensor b, Tensor? bias=None, bool transpose_out=False,"
    " ScalarType? out_dtype=None) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype | None,
) -> None:
    check_matrix("values", values)
    check_matrix("b", b)
    rows, columns = values.shape[0], 2 * values.shape[1]
    if columns % 4 != 0:
        raise ValueError(
            f"values: {values.shape[1]} columns are not two per group; pass what pack24 returns"
        )
    check_packed("values", values, "meta", meta, rows, columns)
    if b.shape[0] != columns and padded_rows(b.shape[0]) != columns:
        raise ValueError(
            f"b: {b.shape[0]} rows do not fit a packed matrix of {columns} columns; pass {columns},"
            f" or the rows of the matrix whose transpose was padded to a multiple of {PADDED}"
        )
    check_same_dtype("b", b, "values", values)
    check_device("b", b, "values", values)
    if bias is not None:
        length = rows if transpose_out else b.shape[1]
        check_shape("bias", bias, (length,), "the last dimension of what is returned")
        check_same_dtype("bias", bias, "values", values)
        check_device("bias", bias, "values", values)
    if out_dtype not in (None, values.dtype, torch.float32) or (
        out_dtype == torch.float32 and values.dtype == torch.float64
    ):
        raise ValueError(
            f"out_dtype: {out_dtype} from {values.dtype} is not supported;"
            " use None, or torch.float32 with 16-bit operands"
        )


@torch.library.register_fake("sparsetrain::matmul24")
def _fake(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    transpose_out: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    M, N = values.shape[0], b.shape[1]
    shape = (N, M) if transpose_out else (M, N)
    return values.new_empty(shape, dtype=out_dtype or values.dtype)


@torch.library.impl("sparsetrain::matmul24", "default")
@torch.no_grad()
def _kernel(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    transpose_out: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    _check(values, meta, b, bias, transpose_out, out_dtype)
    return reference(values, meta, b, bias, transpose_out, out_dtype)


def matmul24(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    transpose_out: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply a packed matrix A [M, K] by a dense b.

    values          [M, K/2]
    meta            uint8 [ceil(K/64), ceil(M/64), 512] (reference/pack24.py)
    b               [K0, N], any strides; K0 is K, or K is K0 padded to a multiple of 128, as the
                    transposed side of the packed form is: missing rows (tokens) are zero
    bias            added along the last dimension of what is returned
    transpose_out   return (A b).T instead
    out_dtype       that of values if None; float32 is allowed for 16-bit operands

    values, b and bias share a dtype; accumulation is that of torch.matmul.
    Returns [M, N], or contiguous [N, M]. Raises ValueError for what it does not take.
    """
    _check(values, meta, b, bias, transpose_out, out_dtype)
    return torch.ops.sparsetrain.matmul24(values, meta, b, bias, transpose_out, out_dtype)
