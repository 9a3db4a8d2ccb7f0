"""select24: the reference's mask as bits."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import select24


def test_the_mask_of_one_row():
    x = torch.tensor([[1.0, -5, 3, 2, 9, 0, 0, 8, 0, 0, 0, 4]])
    assert select24(x, "row").tolist() == [[0b1001_0110, 0b1001]]


def test_the_tile_that_breaks_greedy():
    x = torch.tensor([[8.0, 10, 12, 4], [14, 16, 7, 15], [1, 9, 5, 11], [3, 2, 6, 13]])
    assert select24(x, "transposable").flatten().tolist() == [0b0101, 0b0011, 0b1010, 0b1100]
    assert select24(x, "greedy").flatten().tolist() == [0b0110, 0b1010, 0b0001, 0b1100]


def test_an_unknown_rule_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"rule: 'best' .* transposable, transposable_l2, row, greedy"
    ):
        select24(gaussian(4, 4), "best")  # pyright: ignore[reportArgumentType]
