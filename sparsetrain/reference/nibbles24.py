"""Nibbles of metadata in some order: what every layout of metadata is.

Dimension key:  R rows   G groups of four in a row

A nibble says which two of a group are kept. An order names the bits of its address, the slowest
first: r0 is the lowest bit of the row's number, g0 of the group's; R and G are what is left of
both, which number the blocks. "G R r1 r0 g0" has blocks of 4 rows x 2 groups, 8 nibbles each; down
the rows the blocks follow each other, and inside one a row follows a row.
Two nibbles share a byte, the first in its low half.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def write_nibbles(nibble_RG: Tensor, order: str) -> Tensor:
    """Give the bytes, uint8 [R' G' / 2], of nibbles uint8 [R, G], padded with 0 to whole blocks."""
    R, G = nibble_RG.shape
    block_rows, block_groups = block24(order)
    nibble_RG = F.pad(nibble_RG, (0, -G % block_groups, 0, -R % block_rows))
    shape, permutation = _axes(order, *nibble_RG.shape)
    pair = nibble_RG.reshape(shape).permute(permutation).reshape(-1, 2)
    return pair[:, 0] | pair[:, 1] << 4


def read_nibbles(packed: Tensor, order: str, rows: int, groups: int) -> Tensor:
    """Undo `write_nibbles`: uint8 [rows, groups]. packed may have any shape."""
    block_rows, block_groups = block24(order)
    padded_rows, padded_groups = rows + -rows % block_rows, groups + -groups % block_groups
    shape, permutation = _axes(order, padded_rows, padded_groups)
    nibble = torch.stack([packed & 15, packed >> 4], dim=-1)
    nibble = nibble.reshape([shape[axis] for axis in permutation])
    back = sorted(range(len(permutation)), key=permutation.__getitem__)
    return nibble.permute(back).reshape(padded_rows, padded_groups)[:rows, :groups].contiguous()


def block24(order: str) -> tuple[int, int]:
    """Give the rows and the groups of a block."""
    return 1 << order.count("r"), 1 << order.count("g")


def _axes(order: str, rows: int, groups: int) -> tuple[list[int], list[int]]:
    """Cut [rows, groups] into blocks and bits: the shape, and its permutation to the order."""
    row_bits, group_bits = order.count("r"), order.count("g")
    names = ["R", *(f"r{bit}" for bit in reversed(range(row_bits)))]
    names += ["G", *(f"g{bit}" for bit in reversed(range(group_bits)))]
    shape = [rows >> row_bits, *[2] * row_bits, groups >> group_bits, *[2] * group_bits]
    return shape, [names.index(name) for name in order.split()]
