"""quantize24: quantize a matrix under a 2:4 mask and pack it along its rows."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_groups, check_mask
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.pack24 import meta_order24, meta_shape24
from sparsetrain.reference.quantize import Scaling, scale_shape
from sparsetrain.reference.quantize24 import quantize24 as reference


def check_masked(
    op: str, x: Tensor, mask: Tensor, dtype: torch.dtype, scaling: str, power_of_two: bool
) -> None:
    """Refuse what an op that quantizes x under a mask does not take."""
    check_groups("x", x)
    check_mask("mask", mask, x)
    check_quantizing(op, x, dtype, scaling)


def empty_scaled24(
    x: Tensor, rows: int, columns: int, dtype: torch.dtype, scaling: Scaling
) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised values, meta and scales of a [rows, columns] matrix, on the device of x."""
    return (
        x.new_empty(rows, columns // 2, dtype=dtype),
        x.new_empty(meta_shape24(rows, columns, meta_order24(dtype)), dtype=torch.uint8),
        x.new_empty(scale_shape(scaling, rows, columns), dtype=torch.float32),
    )


_op = register(
    "quantize24(Tensor x, Tensor mask, ScalarType dtype, str scaling='row',"
    " bool power_of_two=False) -> (Tensor values, Tensor meta, Tensor scales)",
    check=lambda *given: check_masked("quantize24", *given),
    fake=lambda x, mask, dtype, scaling, _: empty_scaled24(
        x, x.shape[0], x.shape[1], dtype, scaling
    ),
    kernel=reference,
)


def quantize24(
    x: Tensor,
    mask: Tensor,
    dtype: torch.dtype,
    scaling: Scaling = "row",
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize x and pack it along its rows with a mask that keeps at most two of every four.

    x                          [R, C], C % 4 == 0
    mask                       uint8 [R, ceil(C/8)], as select24 gives it
    dtype                      torch.float8_e4m3fn or torch.int8
    scaling, power_of_two      as in `quantize`; scales are those of what the mask keeps

    Returns values [R, C/2] in dtype, meta uint8 [ceil(C/128), ceil(R/64), 1024], which is the order
    of 8-bit values (reference/pack24.py), and float32 scales (reference/quantize.py).
    `unpack24(values, meta)` gives back the quantized matrix.
    Raises ValueError for what it does not take, and for a group that keeps more than two; the
    kernel for CUDA keeps the two lowest of such a group, and does not take float64.
    """
    return _op(x, mask, dtype, scaling, power_of_two)
