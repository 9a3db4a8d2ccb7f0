"""add_matmul24_: add a packed 2:4 matrix times a dense one to a matrix in place."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_device,
    check_matrix,
    check_product,
    check_shape,
    product_shape,
)
from sparsetrain.ops.register import nothing, register
from sparsetrain.reference.add_matmul24_ import add_matmul24_ as reference


def _check(out: Tensor, values: Tensor, meta: Tensor, b: Tensor, transpose_out: bool) -> None:
    check_matrix("out", out)
    check_product(values, meta, b)
    check_shape("out", out, product_shape(values, b, transpose_out), "that of the product")
    allowed = values.dtype, torch.promote_types(values.dtype, torch.float32)
    if out.dtype not in allowed:
        raise ValueError(
            f"out: {out.dtype}, but values is {values.dtype};"
            f" cast one of them, or make out {allowed[1]}"
        )
    check_device("out", out, "values", values)
    if not out.is_contiguous():
        raise ValueError(
            f"out: strides {tuple(out.stride())} are not contiguous; pass out.contiguous(),"
            " or out.T and the other transpose_out"
        )


_SCHEMA = "(Tensor(a!) out, Tensor values, Tensor meta, Tensor b, bool transpose_out=False) -> ()"
_op = register(f"add_matmul24_{_SCHEMA}", check=_check, fake=nothing, kernel=reference)
# The kernel for CUDA calls this one for float32.
register(f"_add_matmul24_reference_{_SCHEMA}", check=_check, fake=nothing, kernel=reference)


def add_matmul24_(
    out: Tensor, values: Tensor, meta: Tensor, b: Tensor, transpose_out: bool = False
) -> Tensor:
    """out += A b for a packed matrix A [M, K] and a dense b, in place; returns out.

    out             [M, N] contiguous, or [N, M] if transposed, in the dtype of values or, for
                    16-bit operands, float32; it shares no memory with the others
    values, meta    [M, K/2] and uint8 [ceil(K/64), ceil(M/64), 512] (reference/pack24.py)
    b               [K0, N], any strides, as in matmul24
    transpose_out   add (A b).T

    So the gradient of a weight accumulates where it lies, in one pass. Summed in float32 (float64
    for float64) and rounded once. Dtypes on CUDA and what is not finite: as in matmul24.
    Raises ValueError for what it does not take.
    """
    _op(out, values, meta, b, transpose_out)
    return out
