"""quantize_both24: quantize a matrix under a 2:4 mask and pack it in both orientations."""

import torch
from torch import Tensor

from sparsetrain.ops.quantize24 import check_masked, empty_scaled24
from sparsetrain.ops.register import register
from sparsetrain.reference.pack24 import padded_rows
from sparsetrain.reference.quantize import Scaling
from sparsetrain.reference.quantize24 import quantize_both24 as reference

Scaled24 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _fake(
    x: Tensor, mask: Tensor, dtype: torch.dtype, scaling: Scaling, power_of_two: bool
) -> Scaled24:
    R, C = x.shape
    rows = empty_scaled24(x, R, C, dtype, scaling)
    return *rows, *empty_scaled24(x, C, padded_rows(R), dtype, scaling)


_op = register(
    "quantize_both24(Tensor x, Tensor mask, ScalarType dtype, str scaling='row',"
    " bool power_of_two=False) -> (Tensor values, Tensor meta, Tensor scales,"
    " Tensor values_t, Tensor meta_t, Tensor scales_t)",
    check=lambda *given: check_masked("quantize_both24", *given),
    fake=_fake,
    kernel=reference,
)


def quantize_both24(
    x: Tensor,
    mask: Tensor,
    dtype: torch.dtype,
    scaling: Scaling = "row",
    power_of_two: bool = False,
) -> Scaled24:
    """`quantize24` of x and of its transpose, with one mask that is 2:4 both ways.

    x       [R, C], C % 4 == 0; R is free, the transpose is padded to R128, a multiple of 128
    mask    uint8 [R, ceil(C/8)], as select24 gives it for "transposable" or "greedy"

    Returns values, meta and scales of x [R, C] as `quantize24` does, then those of its transpose
    [C, R128]: values_t [C, R128/2], meta_t uint8 [R128/128, ceil(C/64), 1024], scales_t. By "row"
    each orientation is quantized with the scales of its own rows; by "block" and "tensor" the
    scales, and so the numbers, are the same.
    Raises ValueError for what it does not take, and for a 4x4 tile with a row or column that keeps
    more than two; the kernel for CUDA keeps the two lowest of those, and does not take float64.
    """
    return _op(x, mask, dtype, scaling, power_of_two)
