"""apply24: a given mask, both orientations."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import apply24, select24, unpack24
from sparsetrain.reference.masks24 import pack_bits, unpack_bits


@pytest.mark.parametrize("rows", [130, 128, 6, 5, 1, 0])
def test_a_mask_that_keeps_fewer_than_two_packs_both_ways(rows):
    x = gaussian(rows, 12)
    mask = unpack_bits(select24(x, "transposable"), 12) & (gaussian(rows, 12, seed=1) > -0.5)
    values, meta, values_t, meta_t = apply24(x, pack_bits(mask))
    assert torch.equal(unpack24(values, meta), x * mask)
    transposed = unpack24(values_t, meta_t)
    assert torch.equal(transposed[:, :rows], (x * mask).T)
    assert transposed[:, rows:].count_nonzero() == 0


def test_values_take_the_dtype_asked_for():
    x = gaussian(8, 8)
    values, _, values_t, _ = apply24(x, select24(x, "greedy"), torch.float16)
    assert values.dtype == values_t.dtype == torch.float16
    full = apply24(x, select24(x, "greedy"))
    assert torch.equal(values, full[0].half())
    assert torch.equal(values_t, full[2].half())


def test_a_crowded_row_names_its_tile():
    mask = torch.zeros(12, 8, dtype=torch.bool)
    mask[9, 4:7] = True
    with pytest.raises(ValueError, match="a row of the 4x4 tile at row 8, column 4 keeps more"):
        apply24(torch.ones(12, 8), pack_bits(mask))


def test_a_crowded_column_names_its_tile():
    mask = torch.zeros(7, 12, dtype=torch.bool)
    mask[4:7, 9] = True
    with pytest.raises(ValueError, match="a column of the 4x4 tile at row 4, column 8 keeps more"):
        apply24(torch.ones(7, 12), pack_bits(mask))


def test_a_row_mask_is_not_good_for_both_orientations():
    x = gaussian(64, 64)
    with pytest.raises(ValueError, match="a column of the 4x4 tile"):
        apply24(x, select24(x, "row"))
