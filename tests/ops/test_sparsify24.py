"""sparsify24: both orientations against the mask and the dense matrix."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import apply24, mask24, select24, sparsify24, unpack24
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.reference.pack24 import nibbles24
from sparsetrain.select import RULES

SHAPES = [(8, 16), (7, 12), (1, 4), (130, 36), (0, 8)]
ONE_MASK = ["transposable", "transposable_l2", "greedy"]


def padded_transpose(x):
    rows, columns = x.shape
    wide = x.new_zeros(columns, (rows + 127) // 128 * 128)
    wide[:, :rows] = x.T
    return wide


def test_one_tile():
    x = torch.tensor([[8.0, 10, 12, 4], [14, 16, 7, 15], [1, 9, 5, 11], [3, 2, 6, 13]])
    values, meta, values_t, meta_t, mask, flips = sparsify24(x)
    assert values.tolist() == [[8, 12], [14, 16], [9, 11], [6, 13]]
    assert nibbles24(meta, 4, 1)[:, 0].tolist() == [0 | 2 << 2, 0 | 1 << 2, 1 | 3 << 2, 2 | 3 << 2]
    assert values_t.shape == (4, 64)
    assert values_t[:, :2].tolist() == [[8, 14], [16, 9], [12, 6], [11, 13]]
    assert values_t[:, 2:].count_nonzero() == 0
    assert meta_t.shape == (2, 1, 512)
    nibble_t = nibbles24(meta_t, 4, 32)
    assert nibble_t[:, 0].tolist() == [0 | 1 << 2, 1 | 2 << 2, 0 | 3 << 2, 2 | 3 << 2]
    assert (nibble_t[:, 1:] == 0 | 1 << 2).all()
    assert mask.flatten().tolist() == [0b0101, 0b0011, 0b1010, 0b1100]
    assert flips.tolist() == 0


@pytest.mark.parametrize("rule", ONE_MASK)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_orientations_hold_the_same_matrix(rule, shape):
    x = gaussian(*shape)
    values, meta, values_t, meta_t, mask, _ = sparsify24(x, rule)
    assert torch.equal(mask, select24(x, rule))
    dense = mask24(x, mask)
    assert torch.equal(unpack24(values, meta), dense)
    assert torch.equal(unpack24(values_t, meta_t), padded_transpose(dense))


@pytest.mark.parametrize("shape", SHAPES)
def test_row_gives_each_orientation_its_own_best_mask(shape):
    x = gaussian(*shape)
    values, meta, values_t, meta_t, mask, _ = sparsify24(x, "row")
    x_t = padded_transpose(x)
    assert torch.equal(mask, select24(x, "row"))
    assert torch.equal(unpack24(values, meta), mask24(x, mask))
    assert torch.equal(unpack24(values_t, meta_t), mask24(x_t, select24(x_t, "row")))


@pytest.mark.parametrize("rule", ONE_MASK)
@pytest.mark.parametrize("shape", SHAPES)
def test_sparsifying_is_selecting_and_applying(rule, shape):
    x = gaussian(*shape)
    *packed, mask, _ = sparsify24(x, rule, torch.bfloat16)
    for got, expected in zip(packed, apply24(x, mask, torch.bfloat16), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("rule", RULES)
def test_the_mask_is_chosen_before_the_values_are_rounded(rule):
    x = 1 + torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) * 3e-3
    assert x.bfloat16().unique().numel() == 1
    values, meta, values_t, meta_t, mask, _ = sparsify24(x, rule, torch.bfloat16)
    wide_values, wide_meta, wide_values_t, wide_meta_t, wide_mask, _ = sparsify24(x, rule)
    assert torch.equal(mask, wide_mask)
    assert torch.equal(meta, wide_meta)
    assert torch.equal(meta_t, wide_meta_t)
    assert torch.equal(values, wide_values.bfloat16())
    assert torch.equal(values_t, wide_values_t.bfloat16())
    assert not torch.equal(mask, select24(x.bfloat16(), rule))


def test_rows_of_padding_are_zeros_at_the_lowest_free_positions():
    x = torch.tensor([[1.0, 2, 3, 4]])
    _, _, values_t, meta_t, mask, _ = sparsify24(x)
    assert mask.tolist() == [[0b1100]]
    assert values_t[:, :2].tolist() == [[0, 0], [0, 0], [3, 0], [4, 0]]
    assert values_t[:, 2:].count_nonzero() == 0
    assert (nibbles24(meta_t, 4, 32) == 0 | 1 << 2).all()
    assert meta_t.count_nonzero() == 4 * 16  # of rows 4 to 63, which x.T has not, nothing


@pytest.mark.parametrize("rule", RULES)
def test_flips_are_the_bits_that_differ_from_the_previous_mask(rule):
    x, earlier = gaussian(33, 20), gaussian(33, 20, seed=1)
    previous = select24(earlier, rule)
    *packed, mask, flips = sparsify24(x, rule, None, previous)
    assert flips.dtype == torch.int64
    assert flips.shape == ()
    assert flips == (unpack_bits(mask, 20) != unpack_bits(previous, 20)).sum()
    assert flips > 0
    for got, expected in zip([*packed, mask], sparsify24(x, rule), strict=False):
        assert torch.equal(got, expected)
    assert sparsify24(x, rule, None, mask)[-1] == 0


@pytest.mark.parametrize(
    ("previous", "complaint"),
    [
        (torch.zeros(4, 2).byte(), r"previous: shape \(4, 2\) should be \(4, 1\)"),
        (torch.zeros(4, 1).bool(), r"previous: torch.bool should be uint8"),
        (torch.zeros(4, 1, device="meta").byte(), r"previous: on meta, but x is on cpu"),
    ],
)
def test_a_previous_mask_that_does_not_fit_is_refused(previous, complaint):
    with pytest.raises(ValueError, match=complaint):
        sparsify24(gaussian(4, 8), "row", None, previous)


def test_a_dtype_that_is_not_a_float_is_refused():
    with pytest.raises(ValueError, match=r"dtype: torch\.int8 is not supported"):
        sparsify24(gaussian(4, 4), "row", torch.int8)
