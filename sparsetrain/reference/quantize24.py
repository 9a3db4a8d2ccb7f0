"""Quantize a matrix under a 2:4 mask and pack it, along its rows or in both orientations.

Dimension key:  R rows   C columns   R128 = padded_rows(R)

Values and metadata lie as reference/pack24.py says of 8-bit values, scales as
reference/quantize.py does. Scales are those of what the mask keeps: a value that is pruned, NaN and
infinities too, has no part in them. Where a scale is NaN, kernels may write NaN to packed places
that the mask does not keep; a product is NaN either way.
"""

import torch
from torch import Tensor

from sparsetrain.reference.apply24 import check_mask_both24
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.reference.pack24 import (
    META_ORDER_8BIT,
    check_mask24,
    meta24,
    pack_rows24,
    pad_rows24,
    positions24,
    unpack24,
)
from sparsetrain.reference.quantize import Scaling, quantize


def quantize24(
    x_RC: Tensor, mask: Tensor, dtype: torch.dtype, scaling: Scaling, power_of_two: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize and pack along the rows with a given mask of bits.

    Returns values, meta and scales. Raises ValueError for the first group where the mask keeps more
    than two.
    """
    mask_RC = unpack_bits(mask, x_RC.shape[1])
    check_mask24(mask_RC)
    return _quantize_rows24(x_RC, mask_RC, dtype, scaling, power_of_two)


def quantize_both24(
    x_RC: Tensor, mask: Tensor, dtype: torch.dtype, scaling: Scaling, power_of_two: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`quantize24` of x and of its transpose, padded to [C, R128], with one mask for both.

    By "row" each orientation has scales of its own rows, and so other numbers; by "block" and
    "tensor" both have the same, transposed.
    Returns values, meta, scales, values_t, meta_t, scales_t. Raises ValueError for the first 4x4
    tile with a row, or else a column, that keeps more than two.
    """
    mask_RC = unpack_bits(mask, x_RC.shape[1])
    check_mask_both24(mask_RC)
    given = dtype, scaling, power_of_two
    rows = _quantize_rows24(x_RC, mask_RC, *given)
    columns = _quantize_rows24(pad_rows24(x_RC).T, pad_rows24(mask_RC).T, *given)
    return *rows, *columns


def quantize_across24(
    x_RC: Tensor, mask: Tensor, dtype: torch.dtype, columns: bool, power_of_two: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`quantize_both24` by row, one orientation dense: its zeros are zeros, whatever its scale.

    columns: whether the columns are packed and x [R, C] is dense, else the rows are packed and the
    transpose [C, R] is dense.
    Returns values, meta and scales of what is packed, then what is dense and its scales.
    """
    both = quantize_both24(x_RC, mask, dtype, "row", power_of_two)
    packed, (values, meta, scales) = (both[3:], both[:3]) if columns else (both[:3], both[3:])
    length = x_RC.shape[1] if columns else x_RC.shape[0]
    return *packed, unpack24(values, meta)[:, :length].contiguous(), scales


def narrow24(
    values: Tensor, meta: Tensor, dtype: torch.dtype, power_of_two: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize a matrix that is packed along its rows, each row with a scale of its own.

    Returns values, meta and scales: those of `quantize24` of the same matrix and mask.
    """
    rows, groups = values.shape[0], values.shape[1] // 2
    q, scales = quantize(values, dtype, "row", power_of_two)
    return q, meta24(positions24(meta, rows, groups), META_ORDER_8BIT), scales


def _quantize_rows24(
    x_RC: Tensor, mask_RC: Tensor, dtype: torch.dtype, scaling: Scaling, power_of_two: bool
) -> tuple[Tensor, Tensor, Tensor]:
    q_RC, scales = quantize(torch.where(mask_RC, x_RC, 0), dtype, scaling, power_of_two)
    values, meta = pack_rows24(q_RC, mask_RC)
    return values, meta, scales
