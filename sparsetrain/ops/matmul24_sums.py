"""matmul24_sums: a packed 2:4 matrix times a dense one, and the sums of its columns."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_bias, check_product, product_shape
from sparsetrain.ops.register import register
from sparsetrain.reference.matmul24_sums import matmul24_sums as reference


def _check(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor | None, transpose_out: bool
) -> None:
    check_product(values, meta, b)
    check_bias(bias, values, b, transpose_out)


def _fake(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor | None, transpose_out: bool
) -> tuple[Tensor, Tensor]:
    rows, columns = product_shape(values, b, transpose_out)
    sums_dtype = torch.promote_types(values.dtype, torch.float32)
    return values.new_empty(rows, columns), values.new_empty(columns, dtype=sums_dtype)


_SCHEMA = (
    "(Tensor values, Tensor meta, Tensor b, Tensor? bias=None, bool transpose_out=False)"
    " -> (Tensor out, Tensor column_sums)"
)
_op = register(f"matmul24_sums{_SCHEMA}", check=_check, fake=_fake, kernel=reference)
# The kernel for CUDA calls this one for float32.
register(f"_matmul24_sums_reference{_SCHEMA}", check=_check, fake=_fake, kernel=reference)


def matmul24_sums(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor | None = None, transpose_out: bool = False
) -> tuple[Tensor, Tensor]:
    """Give A b + bias for a packed matrix A [M, K] and a dense b, and the sums of its columns.

    values, meta    [M, K/2] and uint8 [ceil(K/64), ceil(M/64), 512] (reference/pack24.py)
    b               [K0, N], any strides, as in matmul24
    bias            added along the last dimension of what is returned
    transpose_out   take (A b).T for A b

    Returns out, [M, N], or [N, M] if transposed, contiguous in the dtype of values, as matmul24
    does, and column_sums, float32 [out.shape[1]] (float64 for float64): out summed over its rows
    before it is rounded. Of a gradient with respect to tokens, that is the bias gradient of the
    layer below. Dtypes on CUDA and what is not finite: as in matmul24.
    Raises ValueError for what it does not take.
    """
    return _op(values, meta, b, bias, transpose_out)
