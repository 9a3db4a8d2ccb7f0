"""flips24: the numerator of the flip rate."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import flips24, select24
from sparsetrain.reference.masks24 import unpack_bits


def test_an_unchanged_mask_has_no_flips():
    mask = select24(gaussian(8, 16), "transposable")
    assert flips24(mask, mask.clone()).item() == 0


def test_one_swapped_pair_is_two_flips():
    x = torch.tensor([[4.0, 3, 2, 1]])
    y = torch.tensor([[4.0, 2, 3, 1]])
    assert flips24(select24(x, "row"), select24(y, "row")).item() == 2


def test_the_count_is_that_of_the_differing_elements():
    masks = [select24(gaussian(33, 20, seed=seed), "row") for seed in (0, 1)]
    count = flips24(masks[0], masks[1])
    assert count.dtype == torch.int64
    assert count.shape == ()
    first, second = (unpack_bits(mask, 20) for mask in masks)
    assert count == (first != second).sum()


def test_every_bit_of_a_byte_counts():
    mask = torch.full((1000, 300), 255, dtype=torch.uint8)
    assert flips24(mask, torch.zeros_like(mask)).item() == 8 * 300_000


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"previous: shape \(4, 2\) should be \(4, 1\)"):
        flips24(torch.zeros(4, 1).byte(), torch.zeros(4, 2).byte())


def test_a_bool_mask_is_refused():
    with pytest.raises(ValueError, match=r"previous: torch\.bool should be uint8"):
        flips24(torch.zeros(4, 1).byte(), torch.zeros(4, 1).bool())
