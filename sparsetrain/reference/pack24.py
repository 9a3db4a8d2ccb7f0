"""The packed form of a 2:4 matrix, its packer and its unpacker. Every other file points here.

Dimension key:  R rows   C columns, C % 4 == 0   G = C/4 groups of four in a row
                R128 = padded_rows(R), R rounded up to a multiple of 128

For x[R, C]:
    values  x's dtype [R, C/2]       the kept values in order of position, two per group
    meta    uint8 [ceil(C/64), ceil(R/64), 512]; for 8-bit values [ceil(C/128), ceil(R/64), 1024]
                                     a nibble for each group: i0 | i1 << 2, with i0 < i1 the
                                     positions kept in it; nibbles outside x are 0
    mask    uint8 [R, ceil(C/8)]     column c is bit c % 8 (low first) of byte c // 8; unused bits
                                     are 0
For the other orientation, of x transposed [C, R]: a group is four rows of x. R (tokens) may be any
number, so x is padded with rows of zeros that the mask does not keep, to a multiple of 128: then
every row of values_t starts on 16 bytes, and no tile of a product is cut off.
    values_t  x's dtype [C, R128/2]
    meta_t    uint8 [R128/64, ceil(C/64), 512]; for 8-bit values [R128/128, ceil(C/64), 1024]

A group always stores two values. Where a mask keeps fewer than two, the lowest free positions fill
up, with value 0.

Metadata lies in atoms of 64 x 64 values, 512 bytes each: atom [c // 64, r // 64] has row r, column
c. In it the two groups of row r from column 8 (c // 8) on, low nibble first, are the byte

    (r // 16 % 4) * 128 + (c // 16 % 2) * 64 + (r % 8) * 8
        + (c // 32 % 2) * 4 + (r // 8 % 2) * 2 + c // 8 % 2

So wgmma.sp of sm90 and CUTLASS's sparse products for it (16-bit values, atoms of K = 64) read atoms
as they are; export/layouts24.py has the orders of others. An atom is written in one piece:
on an H200 (2026-11-22), metadata written row by row, 16 bytes for each row of a tile, cost a kernel
that packs both orientations a quarter of its time, all of it in the L2 cache.

8-bit values (float8_e4m3fn, int8) have atoms of 64 rows x 128 columns, 1024 bytes each, in the
order of the fragments of wgmma.sp.m64nNk64: atom [c // 128, r // 64] is 128 pieces of 8 bytes, one
for each lane of a warpgroup. Lane l of warp w holds row 16 w + l // 4 + 8 (l & 1), and there the
columns from 32 (l >> 1 & 1) on: 8 groups, lowest nibble first, in the 32-bit register of one
instruction. The first four bytes of its piece are those of columns 0 to 63 of the atom, the last
four those of columns 64 to 127. So one 8-byte load gives a lane the metadata of two instructions,
and a warp loads 256 bytes in a row. The two groups of row r from column 8 (c // 8) on are the byte

    (r // 16 % 4) * 256 + (r % 8) * 32 + (c // 32 % 2) * 16 + (r // 8 % 2) * 8
        + (c // 64 % 2) * 4 + c // 8 % 4

Source of the fragment: ELayout_64x64 of CUTLASS, cute/atom/mma_traits_sm90_gmma_sparse.hpp.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.reference.nibbles24 import read_nibbles, write_nibbles

PADDED = 128
"""The columns of the transposed side are a multiple of this."""

META_ORDER = "G R r5 r4 g2 r2 r1 r0 g3 r3 g1 g0"
"""The order of metadata (reference/nibbles24.py) of all but 8-bit values."""

META_ORDER_8BIT = "G R r5 r4 r2 r1 r0 g3 r3 g4 g2 g1 g0"
"""The order of metadata of 8-bit values."""

EIGHT_BITS = (torch.float8_e4m3fn, torch.int8)
"""The 8-bit dtypes that values may have, with scales beside them (reference/quantize24.py)."""


def pack24(x_RC: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pack x along its rows with a given mask of bits. Returns values and meta.

    Raises ValueError for the first group where the mask keeps more than two.
    """
    mask_RC = unpack_bits(mask, x_RC.shape[1])
    check_mask24(mask_RC)
    return pack_rows24(x_RC, mask_RC)


def unpack24(values: Tensor, meta: Tensor) -> Tensor:
    """Give back the dense [R, C] matrix, exact zeros where nothing was kept."""
    R, G = values.shape[0], values.shape[1] // 2
    value_RG2 = _indexable(values).reshape(R, G, 2)
    dense_RG4 = value_RG2.new_zeros(R, G, 4)
    dense_RG4.scatter_(-1, positions24(meta, R, G, meta_order24(values.dtype)), value_RG2)
    return dense_RG4.reshape(R, 4 * G).view(values.dtype)


def pack_rows24(x_RC: Tensor, mask_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Pack x along its rows with a bool mask [R, C] that keeps at most two of every four."""
    R, C = x_RC.shape
    G = C // 4
    mask_RG4 = mask_RC.contiguous().reshape(R, G, 4)  # sorts and what follows keep strides
    kept_first = (~mask_RG4).to(torch.uint8).sort(dim=-1, stable=True).indices
    position_RG2 = kept_first[..., :2].sort(dim=-1).values
    value_RG2 = _indexable(x_RC).reshape(R, G, 4).gather(-1, position_RG2)
    value_RG2 = torch.where(mask_RG4.gather(-1, position_RG2), value_RG2, 0)
    meta = meta24(position_RG2, meta_order24(x_RC.dtype))
    return value_RG2.reshape(R, 2 * G).view(x_RC.dtype), meta


def meta24(position_RG2: Tensor, order: str = META_ORDER) -> Tensor:
    """Give the metadata of the positions kept, int64 [R, G, 2] ascending."""
    R, G, _ = position_RG2.shape
    nibble_RG = position_RG2[..., 0] | position_RG2[..., 1] << 2
    return write_nibbles(nibble_RG.to(torch.uint8), order).reshape(meta_shape24(R, 4 * G, order))


def positions24(meta: Tensor, rows: int, groups: int, order: str = META_ORDER) -> Tensor:
    """Undo `meta24`: the positions kept, int64 [rows, groups, 2]."""
    nibble_RG = nibbles24(meta, rows, groups, order)
    return torch.stack([nibble_RG & 3, nibble_RG >> 2], dim=-1).long()


def nibbles24(meta: Tensor, rows: int, groups: int, order: str = META_ORDER) -> Tensor:
    """Give the nibbles of metadata row by row, uint8 [rows, groups]."""
    return read_nibbles(meta, order, rows, groups)


def meta_shape24(rows: int, columns: int, order: str = META_ORDER) -> tuple[int, int, int]:
    """Give the shape of the metadata of a [rows, columns] matrix."""
    atom_columns = 128 if order == META_ORDER_8BIT else 64
    return (columns + atom_columns - 1) // atom_columns, (rows + 63) // 64, 8 * atom_columns


def meta_order24(dtype: torch.dtype) -> str:
    """Give the order of the metadata of values of a dtype."""
    return META_ORDER_8BIT if dtype in EIGHT_BITS else META_ORDER


def padded_rows(rows: int) -> int:
    """Round a number of rows up to a multiple of PADDED: the columns of the transposed side."""
    return (rows + PADDED - 1) // PADDED * PADDED


def pad_rows24(x_RC: Tensor) -> Tensor:
    """Add rows of zeros (False) up to `padded_rows`."""
    R = x_RC.shape[0]
    return F.pad(x_RC, (0, 0, 0, padded_rows(R) - R))


def check_mask24(mask_RC: Tensor) -> None:
    """Raise ValueError for the first group of a bool mask [R, C] that keeps more than two."""
    row, group = first_crowded_group(mask_RC)
    if row >= 0:
        raise ValueError(
            f"mask: keeps more than two of row {row}, columns {4 * group} to {4 * group + 3};"
            " make the mask with select24"
        )


def first_crowded_group(mask_RC: Tensor) -> tuple[int, int]:
    """Find the first (row, group) that keeps more than two of four; (-1, -1) when there is none."""
    R, C = mask_RC.shape
    crowded = (mask_RC.reshape(R, C // 4, 4).sum(dim=-1) > 2).nonzero()
    if crowded.shape[0] == 0:
        return -1, -1
    row, group = crowded[0].tolist()
    return row, group


def _indexable(x: Tensor) -> Tensor:
    """The bytes of float8, which PyTorch does not gather and scatter; anything else as it is."""
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x
