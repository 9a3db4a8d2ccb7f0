"""squared_relu24_backward_quantize: the gradient of relu(z)², packed, its rows in 8 bits."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_alike,
    check_bytes,
    check_cuda,
    check_groups,
    check_packed,
)
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.pack24 import META_ORDER_8BIT, meta_shape24, padded_rows
from sparsetrain.reference.squared_relu24_quantize import (
    squared_relu24_backward_quantize as reference,
)


def _check(
    grad_h: Tensor,
    meta: Tensor,
    values_t: Tensor,
    meta_t: Tensor,
    dtype: torch.dtype,
    power_of_two: bool,
) -> None:
    check_groups("grad_h", grad_h)
    check_cuda("grad_h", grad_h)
    R, C = grad_h.shape
    reason = "as squared_relu24_quantize makes it for this matrix"
    check_bytes("meta", meta, meta_shape24(R, C, META_ORDER_8BIT), reason)
    check_packed("values_t", values_t, "meta_t", meta_t, C, padded_rows(R))
    check_alike("values_t", values_t, "grad_h", grad_h)
    check_quantizing("squared_relu24_backward_quantize", grad_h, dtype, "row")


def _fake(
    grad_h: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor, dtype: torch.dtype, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    R, C = grad_h.shape
    sums_dtype = torch.promote_types(grad_h.dtype, torch.float32)
    return (
        grad_h.new_empty(R, C // 2, dtype=dtype),
        grad_h.new_empty(R, 1, dtype=torch.float32),
        values_t.new_empty(values_t.shape),
        grad_h.new_empty(C, dtype=sums_dtype),
    )


_SCHEMA = (
    "(Tensor grad_h, Tensor meta, Tensor values_t, Tensor meta_t, ScalarType dtype,"
    " bool power_of_two=False)"
    " -> (Tensor values, Tensor scales, Tensor values_t, Tensor column_sums)"
)
_NAME = "squared_relu24_backward_quantize"
_op = register(f"{_NAME}{_SCHEMA}", check=_check, fake=_fake, kernel=reference)
# The kernel for CUDA calls this one where it has no single pass.
register(f"_{_NAME}_reference{_SCHEMA}", check=_check, fake=_fake, kernel=reference)


def squared_relu24_backward_quantize(
    grad_h: Tensor,
    meta: Tensor,
    values_t: Tensor,
    meta_t: Tensor,
    dtype: torch.dtype,
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give dz = 2 sqrt(h) grad_h where h = relu(z)² is kept: rows in 8 bits, columns as they are.

    grad_h                   [R, C], the dtype of values_t
    meta, values_t, meta_t   what squared_relu24_quantize returned, by a rule of ONE_MASK: of
                             another the columns do not hold all of h, and rows would be wrong
    dtype                    torch.float8_e4m3fn or torch.int8
    power_of_two             as in `quantize`

    Returns values [R, C/2] in dtype and scales [R, 1], which go with meta, values_t [C, R128/2],
    which goes with meta_t, and column_sums, float32 [C] (float64 for float64), the sum of dz over
    tokens before it is rounded. The bits of `squared_relu24_backward`, its rows narrowed. On CUDA
    one pass is what `in_one_pass` says; the rest runs in plain PyTorch.
    Raises ValueError for what it does not take.
    """
    return _op(grad_h, meta, values_t, meta_t, dtype, power_of_two)
