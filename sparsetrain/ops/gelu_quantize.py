"""gelu_quantize: gelu(z) in 8 bits with a scale for each row, and no more of it."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_matrix
from sparsetrain.ops.gelu import check_approximate
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.gelu_quantize import gelu_quantize as reference


def _check(z: Tensor, approximate: str, dtype: torch.dtype, power_of_two: bool) -> None:
    check_matrix("z", z)
    check_cuda("z", z)
    check_approximate(approximate)
    check_quantizing("gelu_quantize", z, dtype, "row")


def empty_quantized(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uninitialised q and scales of x by row."""
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[0], 1, dtype=torch.float32)


def _fake(z: Tensor, approximate: str, dtype: torch.dtype, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_quantized(z, dtype)


_op = register(
    "gelu_quantize(Tensor z, str approximate, ScalarType dtype, bool power_of_two=False)"
    " -> (Tensor q, Tensor scales)",
    check=_check,
    fake=_fake,
    kernel=reference,
)


def gelu_quantize(
    z: Tensor, approximate: Approximate, dtype: torch.dtype, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """Give `quantize(gelu(z, approximate), dtype)`, the same bits, without gelu(z) in memory.

    z              [R, C], any strides
    approximate    "none" or "tanh", as in `gelu`
    dtype          torch.float8_e4m3fn or torch.int8
    power_of_two   as in `quantize`

    Returns q [R, C] in dtype and float32 scales [R, 1]. Kernels for CUDA take float32, bfloat16 and
    float16; one pass is for 16-bit rows that are multiples of 16 bytes.
    Raises ValueError for what it does not take.
    """
    return _op(z, approximate, dtype, power_of_two)
