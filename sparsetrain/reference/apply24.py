"""Pack a matrix with a given mask, in both orientations.

Dimension key:  R rows   C columns   R128 = padded_rows(R)
"""

import torch
from torch import Tensor

from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.reference.pack24 import first_crowded_group, pack_rows24, pad_rows24


def apply24(
    x_RC: Tensor, mask: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pack x and its transpose with one mask of bits; the form is that of reference/pack24.py.

    dtype: of the values; None keeps x's. Returns values, meta, values_t, meta_t.
    Raises ValueError for the first 4x4 tile with a row, or else a column, that keeps more than two.
    """
    mask_RC = unpack_bits(mask, x_RC.shape[1])
    check_mask_both24(mask_RC)
    return pack_both24(x_RC, mask_RC, dtype)


def check_mask_both24(mask_RC: Tensor) -> None:
    """Raise ValueError for the first 4x4 tile of a bool mask [R, C] with a row, or else a column,
    that keeps more than two."""
    row, group = first_crowded_group(mask_RC)
    if row >= 0:
        raise ValueError(_complaint("row", row // 4, group))
    column, group = first_crowded_group(pad_rows24(mask_RC).T)
    if column >= 0:
        raise ValueError(_complaint("column", group, column // 4))


def pack_both24(
    x_RC: Tensor, mask_RC: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`apply24` with a bool mask [R, C] known to keep at most two of four both ways."""
    x_RC = x_RC.to(dtype or x_RC.dtype)
    values, meta = pack_rows24(x_RC, mask_RC)
    values_t, meta_t = pack_rows24(pad_rows24(x_RC).T, pad_rows24(mask_RC).T)
    return values, meta, values_t, meta_t


def _complaint(direction: str, tile_row: int, tile_column: int) -> str:
    return (
        f"mask: a {direction} of the 4x4 tile at row {4 * tile_row}, column {4 * tile_column}"
        ' keeps more than two; make the mask with select24(x, "transposable")'
    )
