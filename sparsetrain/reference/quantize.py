"""8-bit values with scales: how a matrix is quantized, and what the result stands for.

    x is about q * scale, of float8_e4m3fn up to 448 or int8 up to 127

Dimension key:  R rows   C columns   r x c the block of x that shares a scale

    scaling    block of x    scales, float32
    "row"      1 x C         [R, 1]
    "block"    128 x 128     [ceil(R/128), ceil(C/128)]
    "tensor"   R x C         [1, 1]

So the shape of the scales says which scaling it is; where two have the same shape, they mean the
same.

    amax = the largest magnitude of the block, in float32, at least 1e-12
    inverse = LARGEST / amax, rounded to float32; with powers of two, the largest one not above it
    q = x * inverse in float32, clamped to LARGEST, rounded half to even
    scale = 1 / inverse, rounded to float32

For float8_e4m3fn these are the numbers of torchao (float8_utils.py: `amax_to_scale`,
`to_fp8_saturated`), and `scale` is what torch._scaled_mm takes. What follows from them:

  - A block of zeros has q = 0 and the scale 1e-12 / LARGEST (or the power of two not below).
  - Nothing overflows: PyTorch's own conversion to float8_e4m3fn makes NaN of what is above 464,
    clamping keeps the largest. Only the rounding of `inverse` can bring a value there.
  - A NaN in a block makes its scale NaN. An infinity makes its scale infinite, the finite values of
    the block 0 and itself NaN. Either way the whole block stands for NaN, and so does each result
    that it is multiplied into: int8, which has no NaN, has 0 there and the same scale.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Scaling = Literal["row", "block", "tensor"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

BLOCK = 128
"""Rows and columns of the blocks of "block"."""

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
"""The largest magnitude of each 8-bit dtype; -128 is not used."""

LEAST_AMAX = 1e-12


def quantize(
    x_RC: Tensor, dtype: torch.dtype, scaling: Scaling, power_of_two: bool
) -> tuple[Tensor, Tensor]:
    """Quantize x with scales from its own values. Returns q [R, C] in dtype, and its scales."""
    x_RC = x_RC.float()
    inverse = _inverse(_amax(x_RC, scaling), LARGEST[dtype], power_of_two)
    q_RC = x_RC * spread(inverse, *x_RC.shape)
    q_RC = q_RC.clamp(-LARGEST[dtype], LARGEST[dtype])
    if dtype == torch.int8:
        q_RC = q_RC.nan_to_num(nan=0.0).round()
    return q_RC.to(dtype).contiguous(), inverse.reciprocal()


def scale_shape(scaling: Scaling, rows: int, columns: int) -> tuple[int, int]:
    """Give the shape of the scales of a [rows, columns] matrix."""
    if scaling == "row":
        return rows, 1
    if scaling == "block":
        return (rows + BLOCK - 1) // BLOCK, (columns + BLOCK - 1) // BLOCK
    assert scaling == "tensor", scaling
    return 1, 1


def spread(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Give each element of a [rows, columns] matrix the scale of its block; may be a view."""
    for dimension, size in enumerate((rows, columns)):
        n = scales.shape[dimension]
        if n not in (1, size):
            scales = scales.repeat_interleave(BLOCK, dim=dimension).narrow(dimension, 0, size)
    return scales.expand(rows, columns)


def dequantize(q_RC: Tensor, scales: Tensor) -> Tensor:
    """Give the matrix that q and its scales stand for, q * scale in float32."""
    return q_RC.float() * spread(scales, *q_RC.shape)


def _amax(x_RC: Tensor, scaling: Scaling) -> Tensor:
    """The largest magnitude of each block, NaN where it holds one, 0 of an empty block."""
    R, C = x_RC.shape
    down, across = scale_shape(scaling, R, C)
    rows = BLOCK if scaling == "block" else max(1, R) if scaling == "tensor" else 1
    columns = BLOCK if scaling == "block" else max(1, C)
    padded = F.pad(x_RC.abs(), (0, across * columns - C, 0, down * rows - R))
    return padded.reshape(down, rows, across, columns).amax(dim=(1, 3))


def _inverse(amax: Tensor, largest: float, power_of_two: bool) -> Tensor:
    # A number over a tensor would be that number times a rounded reciprocal.
    inverse = torch.full_like(amax, largest) / amax.clamp(min=LEAST_AMAX)
    if not power_of_two:
        return inverse
    exponent_alone = (inverse.view(torch.int32) & 0x7F800000).view(torch.float32)
    return torch.where(inverse.isnan(), inverse, exponent_alone)
