"""matmul24_sums: a packed 2:4 matrix times a dense one, and the sums of its columns."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_bias, check_product, product_shape
from sparsetrain.reference.matmul24_sums import matmul24_sums as reference

_SCHEMA = (
    "(Tensor values, Tensor meta, Tensor b, Tensor? bias=None, bool transpose_out=False)"
    " -> (Tensor out, Tensor column_sums)"
)
torch.library.define("sparsetrain::matmul24_sums", _SCHEMA, tags=torch.Tag.pt2_compliant_tag)
# What the kernel for CUDA calls where it has none, for float32.
torch.library.define("sparsetrain::_matmul24_sums_reference", _SCHEMA)


def _check(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor | None, transpose_out: bool
) -> None:
    check_product(values, meta, b)
    check_bias(bias, values, b, transpose_out)


@torch.library.register_fake("sparsetrain::matmul24_sums")
def _fake(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor | None = None, transpose_out: bool = False
) -> tuple[Tensor, Tensor]:
    rows, columns = product_shape(values, b, transpose_out)
    sums_dtype = torch.promote_types(values.dtype, torch.float32)
    return values.new_empty(rows, columns), values.new_empty(columns, dtype=sums_dtype)


@torch.no_grad()
def _kernel(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor | None = None, transpose_out: bool = False
) -> tuple[Tensor, Tensor]:
    _check(values, meta, b, bias, transpose_out)
    return reference(values, meta, b, bias, transpose_out)


for _name in ("matmul24_sums", "_matmul24_sums_reference"):
    torch.library.impl(f"sparsetrain::{_name}", "default", _kernel)


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
    _check(values, meta, b, bias, transpose_out)
    return torch.ops.sparsetrain.matmul24_sums(values, meta, b, bias, transpose_out)
