"""narrow24: a matrix that is packed along its rows, in 8 bits with scales."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_dtype, check_packed, check_pairs
from sparsetrain.ops.quantize24 import empty_scaled24
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.quantize24 import narrow24 as reference


def _check(values: Tensor, meta: Tensor, dtype: torch.dtype, power_of_two: bool) -> None:
    check_dtype("values", values.dtype)
    check_packed("values", values, "meta", meta, *check_pairs(values))
    check_quantizing("narrow24", values, dtype, "row")


_op = register(
    "narrow24(Tensor values, Tensor meta, ScalarType dtype, bool power_of_two=False)"
    " -> (Tensor values8, Tensor meta8, Tensor scales)",
    check=_check,
    fake=lambda values, meta, dtype, _: empty_scaled24(
        values, values.shape[0], 2 * values.shape[1], dtype, "row"
    ),
    kernel=reference,
)


def narrow24(
    values: Tensor, meta: Tensor, dtype: torch.dtype, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize a matrix that is packed along its rows, each row with a scale of its own.

    values   [R, C/2], and meta, as `apply24` or `squared_relu24` gives them
    dtype    torch.float8_e4m3fn or torch.int8

    Returns values [R, C/2] in dtype, meta uint8 [ceil(C/128), ceil(R/64), 1024] and scales [R, 1]:
    what `quantize24` gives of the same matrix under the same mask. Raises ValueError for what it
    does not take. The kernel for CUDA takes float32, bfloat16 and float16.
    """
    return _op(values, meta, dtype, power_of_two)
