"""The packed form, byte by byte, against a packer in plain Python."""

import struct

import pytest
import torch

from sparsetrain.reference.masks24 import mask_row24, pack_bits, unpack_bits
from sparsetrain.reference.pack24 import pack24, pack_rows24, pad_rows24, positions24, unpack24


def pack_by_hand(rows, masks):
    """Pack lists of numbers; masks are lists of 0 and 1."""
    values, meta = [], []
    for row, mask in zip(rows, masks, strict=True):
        row_values, nibbles = [], []
        for start in range(0, len(row), 4):
            kept = [i for i in range(4) if mask[start + i]]
            free = [i for i in range(4) if not mask[start + i]]
            first, second = sorted(kept + free[: 2 - len(kept)])
            row_values += [row[start + i] if i in kept else 0 for i in (first, second)]
            nibbles.append(first | second << 2)
        nibbles += [0] * (len(nibbles) % 2)
        values.append(row_values)
        meta.append(
            [low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)]
        )
    return values, meta


def test_one_row_of_three_groups():
    x = torch.tensor([[1.0, 9, 2, 8, 7, 0, 0, 6, 0, 0, 4, 5]])
    values, meta = pack24(x, pack_bits(mask_row24(x)))
    assert values.tolist() == [[9, 8, 7, 6, 4, 5]]
    assert meta.tolist() == [[(1 | 3 << 2) | (0 | 3 << 2) << 4, 2 | 3 << 2]]


def test_the_bytes_are_the_little_endian_words_of_the_hardware():
    x = torch.zeros(1, 16)
    x[0, [0, 1, 4, 6, 9, 11, 14, 15]] = 1
    _, meta = pack24(x, pack_bits(x != 0))
    (word,) = struct.unpack("<H", bytes(meta[0].tolist()))
    # Four groups, lowest bits first: (0, 1), (0, 2), (1, 3), (2, 3).
    assert f"{word:016b}" == "1110" + "1101" + "1000" + "0100"


def test_lowest_free_positions_fill_up_with_zero():
    x = torch.tensor([[5.0, 6, 7, 8] * 4])
    mask = torch.tensor([[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]]).bool()
    values, meta = pack24(x, pack_bits(mask))
    assert values.tolist() == [[0, 0, 5, 0, 0, 8, 0, 6]]
    assert positions24(meta, 4).tolist() == [[[0, 1], [0, 1], [0, 3], [0, 1]]]


def test_what_is_not_kept_vanishes_even_when_it_is_not_finite():
    x = torch.tensor([[float("nan"), 1.0, float("inf"), 2.0]])
    mask = torch.tensor([[False, True, False, False]])
    values, meta = pack24(x, pack_bits(mask))
    assert values.tolist() == [[0, 1]]
    assert unpack24(values, meta).tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize("columns", [4, 12, 16, 40])
def test_packing_agrees_with_the_packer_in_plain_python(columns):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randint(1, 100, (7, columns), generator=generator).float()
    mask = mask_row24(torch.rand(7, columns, generator=generator))
    mask &= torch.rand(7, columns, generator=generator) < 0.7
    values, meta = pack_rows24(x, mask)
    expected_values, expected_meta = pack_by_hand(x.tolist(), mask.int().tolist())
    assert values.tolist() == expected_values
    assert meta.tolist() == expected_meta
    assert torch.equal(unpack24(values, meta), x * mask)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("columns", [0, 4])
def test_small_and_empty_matrices_pack(rows, columns):
    x = torch.ones(rows, columns)
    values, meta = pack24(x, pack_bits(mask_row24(x)))
    assert values.shape == (rows, columns // 2)
    assert meta.shape == (rows, (columns + 7) // 8)
    assert unpack24(values, meta).shape == x.shape


def test_rows_are_padded_with_zeros_to_a_multiple_of_four():
    assert pad_rows24(torch.ones(5, 2)).tolist() == [[1, 1]] * 5 + [[0, 0]] * 3
    assert pad_rows24(torch.ones(4, 2)).shape == (4, 2)
    assert pad_rows24(torch.ones(1, 2, dtype=torch.bool)).sum() == 2


def test_a_crowded_group_is_named():
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[2, 4:7] = True
    with pytest.raises(ValueError, match="row 2, columns 4 to 7"):
        pack24(torch.ones(3, 8), pack_bits(mask))


def test_unused_bits_of_a_mask_are_not_read():
    bits = torch.tensor([[0xF3]], dtype=torch.uint8)
    assert unpack_bits(bits, 4).tolist() == [[True, True, False, False]]
