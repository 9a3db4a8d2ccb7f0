"""gelu_backward_quantize: what gelu_backward gives, and the gradient of z in 8 bits with scales."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.gelu_backward import check_gelu_backward, fake_gelu_backward
from sparsetrain.ops.gelu_quantize import empty_quantized
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.gelu_quantize import gelu_backward_quantize as reference


def _check(
    grad_h: Tensor, z: Tensor, approximate: str, dtype: torch.dtype, power_of_two: bool
) -> None:
    check_gelu_backward(grad_h, z, approximate)
    check_quantizing("gelu_backward_quantize", z, dtype, "row")


def _fake(
    grad_h: Tensor, z: Tensor, approximate: str, dtype: torch.dtype, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return *fake_gelu_backward(grad_h, z), *empty_quantized(z, dtype)


_op = register(
    "gelu_backward_quantize(Tensor grad_h, Tensor z, str approximate, ScalarType dtype,"
    " bool power_of_two=False)"
    " -> (Tensor grad_z, Tensor h, Tensor column_sums, Tensor q, Tensor scales)",
    check=_check,
    fake=_fake,
    kernel=reference,
)


def gelu_backward_quantize(
    grad_h: Tensor,
    z: Tensor,
    approximate: Approximate,
    dtype: torch.dtype,
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give what `gelu_backward` gives, and `quantize(grad_z, dtype)` from the same pass.

    grad_h, z      [R, C] of one dtype, any strides
    approximate    "none" or "tanh", as in `gelu`
    dtype          torch.float8_e4m3fn or torch.int8
    power_of_two   as in `quantize`

    Returns grad_z, h and column_sums as `gelu_backward` does, q [R, C] in dtype and float32 scales
    [R, 1]: the same bits, but for column_sums, which a kernel adds up in another order, always the
    same. Kernels for CUDA take float32, bfloat16 and float16; one pass is for float8_e4m3fn from
    16-bit rows that are multiples of 16 bytes, up to 16 KiB.
    Raises ValueError for what it does not take.
    """
    return _op(grad_h, z, approximate, dtype, power_of_two)
