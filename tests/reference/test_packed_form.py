"""The packed form, byte by byte, against a packer in plain Python."""

from functools import cache
from itertools import product

import pytest
import torch

from sparsetrain.reference.masks24 import mask_row24, pack_bits, unpack_bits
from sparsetrain.reference.pack24 import (
    nibbles24,
    pack24,
    pack_rows24,
    pad_rows24,
    padded_rows,
    positions24,
    unpack24,
)


def place_in_atom(row, column):
    """Give the byte of an atom, and the shift, where the nibble of a group lies."""
    byte = (row // 16 % 4) * 128 + (column // 16 % 2) * 64 + (row % 8) * 8
    byte += (column // 32 % 2) * 4 + (row // 8 % 2) * 2 + column // 8 % 2
    return byte, 4 * (column // 4 % 2)


@cache
def place_in_atom_of_8_bit_values(row, column):
    """Find the lane of a warpgroup that holds a group, by CuTe's layout of the fragment."""
    for lane, value in product(range(128), range(32)):
        # ELayout_64x64 of CUTLASS, Shape ((2, 2, 8, 4), 32): Stride ((8, 2048, 1, 16), 64), the
        # place in a 64 x 64 matrix column by column
        place = lane % 2 * 8 + lane // 2 % 2 * 2048 + lane // 4 % 8 + lane // 32 * 16 + value * 64
        if place == row % 64 + column % 64 * 64:
            return lane * 8 + column // 64 % 2 * 4 + value // 8, value // 4 % 2 * 4
    raise AssertionError


def pack_by_hand(rows, masks, atom=64, place_in_atom=place_in_atom):
    """Pack lists of numbers; masks are lists of 0 and 1. Metadata: {(c // atom, r // 64, byte)}."""
    values, meta = [], {}
    for r, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        row_values = []
        for start in range(0, len(row), 4):
            kept = [i for i in range(4) if mask[start + i]]
            free = [i for i in range(4) if not mask[start + i]]
            first, second = sorted(kept + free[: 2 - len(kept)])
            row_values += [row[start + i] if i in kept else 0 for i in (first, second)]
            byte, shift = place_in_atom(r, start)
            place = start // atom, r // 64, byte
            meta[place] = meta.get(place, 0) | (first | second << 2) << shift
        values.append(row_values)
    return values, meta


def test_one_row_of_three_groups():
    x = torch.tensor([[1.0, 9, 2, 8, 7, 0, 0, 6, 0, 0, 4, 5]])
    values, meta = pack24(x, pack_bits(mask_row24(x)))
    assert values.tolist() == [[9, 8, 7, 6, 4, 5]]
    assert meta.shape == (1, 1, 512)
    assert meta[0, 0, :2].tolist() == [(1 | 3 << 2) | (0 | 3 << 2) << 4, 2 | 3 << 2]
    assert meta[0, 0, 2:].count_nonzero() == 0


@pytest.mark.parametrize(
    ("row", "column", "atom", "byte"),
    [
        (0, 8, (0, 0), 1),
        (8, 0, (0, 0), 2),
        (0, 32, (0, 0), 4),
        (1, 0, (0, 0), 8),
        (7, 0, (0, 0), 56),
        (0, 16, (0, 0), 64),
        (16, 0, (0, 0), 128),
        (63, 56, (0, 0), 511),
        (0, 64, (1, 0), 0),
        (64, 0, (0, 1), 0),
        (129, 72, (1, 2), 9),
    ],
)
def test_where_two_groups_have_their_byte(row, column, atom, byte):
    x = torch.ones(130, 80)
    mask = torch.zeros(130, 80, dtype=torch.bool)
    mask[:, 0::4], mask[:, 1::4] = True, True
    _, plain = pack_rows24(x, mask)
    mask[row, column : column + 8] = torch.tensor([0, 0, 1, 1, 0, 1, 0, 1]).bool()
    _, meta = pack_rows24(x, mask)
    assert (meta != plain).nonzero().tolist() == [[*atom, byte]]
    assert meta[(*atom, byte)] == (2 | 3 << 2) | (1 | 3 << 2) << 4


def test_lowest_free_positions_fill_up_with_zero():
    x = torch.tensor([[5.0, 6, 7, 8] * 4])
    mask = torch.tensor([[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]]).bool()
    values, meta = pack24(x, pack_bits(mask))
    assert values.tolist() == [[0, 0, 5, 0, 0, 8, 0, 6]]
    assert positions24(meta, 1, 4).tolist() == [[[0, 1], [0, 1], [0, 3], [0, 1]]]


def test_what_is_not_kept_vanishes_even_when_it_is_not_finite():
    x = torch.tensor([[float("nan"), 1.0, float("inf"), 2.0]])
    mask = torch.tensor([[False, True, False, False]])
    values, meta = pack24(x, pack_bits(mask))
    assert values.tolist() == [[0, 1]]
    assert unpack24(values, meta).tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (7, 40), (64, 64), (100, 132)])
def test_packing_agrees_with_the_packer_in_plain_python(rows, columns):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randint(1, 100, (rows, columns), generator=generator).float()
    mask = mask_row24(torch.rand(rows, columns, generator=generator))
    mask &= torch.rand(rows, columns, generator=generator) < 0.7
    values, meta = pack_rows24(x, mask)
    expected_values, expected_meta = pack_by_hand(x.tolist(), mask.int().tolist())
    assert values.tolist() == expected_values
    assert meta.shape == ((columns + 63) // 64, (rows + 63) // 64, 512)
    everywhere = torch.zeros_like(meta)
    for place, byte in expected_meta.items():
        everywhere[place] = byte
    assert torch.equal(meta, everywhere)
    assert torch.equal(unpack24(values, meta), x * mask)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (66, 132), (20, 256)])
def test_8_bit_values_pack_with_metadata_in_the_order_of_their_tensor_cores(rows, columns, dtype):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randint(1, 16, (rows, columns), generator=generator).float()
    mask = mask_row24(torch.rand(rows, columns, generator=generator))
    mask &= torch.rand(rows, columns, generator=generator) < 0.7
    values, meta = pack_rows24(x.to(dtype), mask)
    hand = x.tolist(), mask.int().tolist()
    expected_values, places = pack_by_hand(*hand, 128, place_in_atom_of_8_bit_values)
    assert values.dtype == dtype
    assert values.float().tolist() == expected_values
    everywhere = torch.zeros((columns + 127) // 128, (rows + 63) // 64, 1024, dtype=torch.uint8)
    for place, byte in places.items():
        everywhere[place] = byte
    assert torch.equal(meta, everywhere)
    assert torch.equal(unpack24(values, meta).float(), x * mask)


@pytest.mark.parametrize(
    ("row", "column", "atom", "byte"),
    [
        (0, 8, (0, 0), 1),
        (0, 64, (0, 0), 4),
        (8, 0, (0, 0), 8),
        (0, 32, (0, 0), 16),
        (1, 0, (0, 0), 32),
        (16, 0, (0, 0), 256),
        (63, 120, (0, 0), 1023),
        (64, 128, (1, 1), 0),
    ],
)
def test_where_two_groups_of_8_bit_values_have_their_byte(row, column, atom, byte):
    x = torch.ones(66, 136, dtype=torch.int8)
    mask = torch.zeros(66, 136, dtype=torch.bool)
    mask[:, 0::4], mask[:, 1::4] = True, True
    _, plain = pack_rows24(x, mask)
    mask[row, column : column + 8] = torch.tensor([0, 0, 1, 1, 0, 1, 0, 1]).bool()
    _, meta = pack_rows24(x, mask)
    assert (meta != plain).nonzero().tolist() == [[*atom, byte]]
    assert meta[(*atom, byte)] == (2 | 3 << 2) | (1 | 3 << 2) << 4


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("columns", [0, 4])
def test_small_and_empty_matrices_pack(rows, columns):
    x = torch.ones(rows, columns)
    values, meta = pack24(x, pack_bits(mask_row24(x)))
    assert values.shape == (rows, columns // 2)
    assert meta.shape == (columns // 4, rows // 3, 512)
    assert unpack24(values, meta).shape == x.shape


def test_nibbles_row_by_row_come_out_of_any_atom():
    x = torch.zeros(70, 72)
    x[69, [64, 65, 68, 71]] = 1
    _, meta = pack24(x, pack_bits(x != 0))
    assert nibbles24(meta, 70, 18)[69, -2:].tolist() == [0 | 1 << 2, 0 | 3 << 2]
    assert positions24(meta, 70, 18)[69, -2:].tolist() == [[0, 1], [0, 3]]


def test_what_an_atom_holds_outside_the_matrix_is_not_read():
    x = torch.tensor([[1.0, 5, 3, 2]])
    values, meta = pack24(x, pack_bits(mask_row24(x)))
    meta[meta == 0] = 255
    meta[0, 0, 0] |= 0xF0
    assert unpack24(values, meta).tolist() == [[0, 5, 3, 0]]


def test_rows_are_padded_with_zeros_to_a_multiple_of_128():
    assert [padded_rows(rows) for rows in (0, 1, 127, 128, 129)] == [0, 128, 128, 128, 256]
    assert pad_rows24(torch.ones(125, 2)).tolist() == [[1, 1]] * 125 + [[0, 0]] * 3
    assert pad_rows24(torch.ones(128, 2)).shape == (128, 2)
    assert pad_rows24(torch.ones(1, 2, dtype=torch.bool)).sum() == 2


def test_a_crowded_group_is_named():
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[2, 4:7] = True
    with pytest.raises(ValueError, match="row 2, columns 4 to 7"):
        pack24(torch.ones(3, 8), pack_bits(mask))


def test_unused_bits_of_a_mask_are_not_read():
    bits = torch.tensor([[0xF3]], dtype=torch.uint8)
    assert unpack_bits(bits, 4).tolist() == [[True, True, False, False]]
