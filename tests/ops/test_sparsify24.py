"""sparsify24: both orientations against the mask and the dense matrix."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import apply24, mask24, select24, sparsify24, unpack24

SHAPES = [(8, 16), (7, 12), (1, 4), (6, 36), (0, 8)]


def padded_transpose(x):
    rows, columns = x.shape
    wide = x.new_zeros(columns, (rows + 3) // 4 * 4)
    wide[:, :rows] = x.T
    return wide


def test_one_tile():
    x = torch.tensor([[8.0, 10, 12, 4], [14, 16, 7, 15], [1, 9, 5, 11], [3, 2, 6, 13]])
    values, meta, values_t, meta_t, mask = sparsify24(x)
    assert values.tolist() == [[8, 12], [14, 16], [9, 11], [6, 13]]
    assert meta.flatten().tolist() == [0 | 2 << 2, 0 | 1 << 2, 1 | 3 << 2, 2 | 3 << 2]
    assert values_t.tolist() == [[8, 14], [16, 9], [12, 6], [11, 13]]
    assert meta_t.flatten().tolist() == [0 | 1 << 2, 1 | 2 << 2, 0 | 3 << 2, 2 | 3 << 2]
    assert mask.flatten().tolist() == [0b0101, 0b0011, 0b1010, 0b1100]


@pytest.mark.parametrize("rule", ["transposable", "greedy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_orientations_hold_the_same_matrix(rule, shape):
    x = gaussian(*shape)
    values, meta, values_t, meta_t, mask = sparsify24(x, rule)
    assert torch.equal(mask, select24(x, rule))
    dense = mask24(x, mask)
    assert torch.equal(unpack24(values, meta), dense)
    assert torch.equal(unpack24(values_t, meta_t), padded_transpose(dense))


@pytest.mark.parametrize("shape", SHAPES)
def test_row_gives_each_orientation_its_own_best_mask(shape):
    x = gaussian(*shape)
    values, meta, values_t, meta_t, mask = sparsify24(x, "row")
    x_t = padded_transpose(x)
    assert torch.equal(mask, select24(x, "row"))
    assert torch.equal(unpack24(values, meta), mask24(x, mask))
    assert torch.equal(unpack24(values_t, meta_t), mask24(x_t, select24(x_t, "row")))


@pytest.mark.parametrize("rule", ["transposable", "greedy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sparsifying_is_selecting_and_applying(rule, shape):
    x = gaussian(*shape)
    *packed, mask = sparsify24(x, rule, torch.bfloat16)
    for got, expected in zip(packed, apply24(x, mask, torch.bfloat16), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("rule", ["transposable", "greedy", "row"])
def test_the_mask_is_chosen_before_the_values_are_rounded(rule):
    x = 1 + torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert x.bfloat16().unique().numel() == 1
    values, meta, values_t, meta_t, mask = sparsify24(x, rule, torch.bfloat16)
    wide_values, wide_meta, wide_values_t, wide_meta_t, wide_mask = sparsify24(x, rule)
    assert torch.equal(mask, wide_mask)
    assert torch.equal(meta, wide_meta)
    assert torch.equal(meta_t, wide_meta_t)
    assert torch.equal(values, wide_values.bfloat16())
    assert torch.equal(values_t, wide_values_t.bfloat16())
    assert not torch.equal(mask, select24(x.bfloat16(), rule))


def test_rows_of_padding_are_zeros_at_the_lowest_free_positions():
    x = torch.tensor([[1.0, 2, 3, 4]])
    _, _, values_t, meta_t, mask = sparsify24(x)
    assert mask.tolist() == [[0b1100]]
    assert values_t.tolist() == [[0, 0], [0, 0], [3, 0], [4, 0]]
    assert meta_t.flatten().tolist() == [0 | 1 << 2] * 4


def test_a_dtype_that_is_not_a_float_is_refused():
    with pytest.raises(ValueError, match=r"dtype: torch\.int8 is not supported"):
        sparsify24(gaussian(4, 4), "row", torch.int8)
