"""The packed form of a 2:4 matrix, its packer and its unpacker. Every other file points here.

Dimension key:  R rows   C columns, C % 4 == 0   G = C/4 groups of four in a row
                R4 = R rounded up to a multiple of four

For x[R, C]:
    values  x's dtype [R, C/2]       the kept values in order of position, two per group
    meta    uint8 [R, ceil(C/8)]     group g is nibble g % 2 (low first) of byte g // 2; a nibble is
                                     i0 | i1 << 2 with i0 < i1 the positions kept in the group; the
                                     unused last nibble of an odd G is 0
    mask    uint8 [R, ceil(C/8)]     column c is bit c % 8 (low first) of byte c // 8; unused bits
                                     are 0
For the other orientation, of x transposed [C, R]: a group is four rows of x, and since R (tokens)
need not be a multiple of four, x is padded with rows of zeros that the mask does not keep:
    values_t  x's dtype [C, R4/2]
    meta_t    uint8 [C, ceil(R4/8)]

A group always stores two values. Where a mask keeps fewer than two, the lowest free positions fill
up, with value 0.

The bytes of meta, read as little-endian 16-bit words, are row by row the ordered metadata that the
PTX instructions mma.sp and wgmma.sp define for 16-bit operands (PTX ISA, "Sparse matrix storage").
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.reference.masks24 import unpack_bits


def pack24(x_RC: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pack x along its rows with a given mask of bits. Returns values and meta.

    Raises ValueError for the first group where the mask keeps more than two.
    """
    mask_RC = unpack_bits(mask, x_RC.shape[1])
    row, group = first_crowded_group(mask_RC)
    if row >= 0:
        raise ValueError(
            f"mask: keeps more than two of row {row}, columns {4 * group} to {4 * group + 3};"
            " make the mask with select24"
        )
    return pack_rows24(x_RC, mask_RC)


def unpack24(values: Tensor, meta: Tensor) -> Tensor:
    """Give back the dense [R, C] matrix, exact zeros where nothing was kept."""
    R, G = values.shape[0], values.shape[1] // 2
    dense_RG4 = values.new_zeros(R, G, 4)
    dense_RG4.scatter_(-1, positions24(meta, G), values.reshape(R, G, 2))
    return dense_RG4.reshape(R, 4 * G)


def pack_rows24(x_RC: Tensor, mask_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Pack x along its rows with a bool mask [R, C] that keeps at most two of every four."""
    R, C = x_RC.shape
    G = C // 4
    mask_RG4 = mask_RC.reshape(R, G, 4)
    kept_first = (~mask_RG4).to(torch.uint8).sort(dim=-1, stable=True).indices
    position_RG2 = kept_first[..., :2].sort(dim=-1).values
    value_RG2 = x_RC.reshape(R, G, 4).gather(-1, position_RG2)
    value_RG2 = torch.where(mask_RG4.gather(-1, position_RG2), value_RG2, 0)
    return value_RG2.reshape(R, 2 * G), meta24(position_RG2)


def meta24(position_RG2: Tensor) -> Tensor:
    """Give the metadata bytes of the positions kept, int64 [R, G, 2] ascending."""
    R, G, _ = position_RG2.shape
    nibble_RG = position_RG2[..., 0] | position_RG2[..., 1] << 2
    low_high = F.pad(nibble_RG, (0, G % 2)).reshape(R, (G + 1) // 2, 2)
    return (low_high[..., 0] | low_high[..., 1] << 4).to(torch.uint8)


def positions24(meta: Tensor, groups: int) -> Tensor:
    """Undo `meta24`: the positions kept, int64 [R, groups, 2]."""
    shift = torch.tensor([0, 2, 4, 6], device=meta.device)
    position = meta.long()[..., None] >> shift & 3
    return position.reshape(meta.shape[0], 2 * meta.shape[1], 2)[:, :groups]


def pad_rows24(x_RC: Tensor) -> Tensor:
    """Add rows of zeros (False) up to the next multiple of four."""
    return F.pad(x_RC, (0, 0, 0, -x_RC.shape[0] % 4))


def first_crowded_group(mask_RC: Tensor) -> tuple[int, int]:
    """Find the first (row, group) that keeps more than two of four; (-1, -1) when there is none."""
    R, C = mask_RC.shape
    crowded = (mask_RC.reshape(R, C // 4, 4).sum(dim=-1) > 2).nonzero()
    if crowded.shape[0] == 0:
        return -1, -1
    row, group = crowded[0].tolist()
    return row, group
