"""matmul24: a packed 2:4 matrix times a dense one, with bias, activation and residual."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_bias,
    check_device,
    check_product,
    check_shape,
    product_shape,
)
from sparsetrain.ops.register import register
from sparsetrain.reference.matmul24 import ACTIVATIONS, Activation
from sparsetrain.reference.matmul24 import matmul24 as reference


def _check(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype | None,
    activation: str,
    residual: Tensor | None,
) -> None:
    check_product(values, meta, b)
    check_bias(bias, values, b, transpose_out)
    if out_dtype not in (None, values.dtype, torch.float32) or (
        out_dtype == torch.float32 and values.dtype == torch.float64
    ):
        raise ValueError(
            f"out_dtype: {out_dtype} from {values.dtype} is not supported;"
            " use None, or torch.float32 with 16-bit operands"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation: {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}"
        )
    if residual is not None:
        shape = product_shape(values, b, transpose_out)
        check_shape("residual", residual, shape, "that of what is returned")
        dtype = out_dtype or values.dtype
        if residual.dtype != dtype:
            raise ValueError(
                f"residual: {residual.dtype}, but what is returned is {dtype};"
                " cast it, or give out_dtype"
            )
        check_device("residual", residual, "values", values)


def _fake(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype | None,
    *_: Any,
) -> Tensor:
    dtype = out_dtype or values.dtype
    return values.new_empty(product_shape(values, b, transpose_out), dtype=dtype)


_SCHEMA = (
    "(Tensor values, Tensor meta, Tensor b, Tensor? bias=None, bool transpose_out=False,"
    " ScalarType? out_dtype=None, str activation='none', Tensor? residual=None) -> Tensor"
)
_op = register(f"matmul24{_SCHEMA}", check=_check, fake=_fake, kernel=reference)
# The kernel for CUDA calls this one for float32.
register(f"_matmul24_reference{_SCHEMA}", check=_check, fake=_fake, kernel=reference)


def matmul24(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    transpose_out: bool = False,
    out_dtype: torch.dtype | None = None,
    activation: Activation = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Give activation(A b + bias) + residual for a packed matrix A [M, K] and a dense b.

    values          [M, K/2]
    meta            uint8 [ceil(K/64), ceil(M/64), 512] (reference/pack24.py)
    b               [K0, N], any strides; K0 is K, or K is K0 padded to a multiple of 128, as the
                    transposed side of the packed form is: missing rows (tokens) are zero
    bias            added along the last dimension of what is returned
    transpose_out   take (A b).T for A b
    out_dtype       that of values if None; float32 is allowed for 16-bit operands
    activation      "none", "squared_relu", relu(x)², or "gelu", the exact one: fast on Hopper
                    where columns of b are contiguous, rows of the result have a multiple of 8
                    values and no residual is added; else `gelu` after the product is faster
    residual        shape and dtype of what is returned, any strides

    values, b and bias share a dtype. All is computed in float32 (float64 for float64) and rounded
    once. Returns [M, N], or [N, M] if transposed, contiguous. Where b is not finite, the result at
    what was pruned from A depends on the kernel: NaN where zeros multiply, as the reference does.
    The kernel for CUDA takes bfloat16 and float16 on compute capability 9.0; float32 keeps the
    reference there. Raises ValueError for what it does not take.
    """
    return _op(values, meta, b, bias, transpose_out, out_dtype, activation, residual)
