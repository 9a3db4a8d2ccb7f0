"""What a mask keeps, against the best of the 90."""

import pytest
import torch

from scripts.bench.quality import quality
from sparsetrain.reference.masks24 import PATTERNS, mask_greedy24, mask_row24


def best_mask(x):
    """The exact optimum of |x|, tile by tile."""
    mask = torch.zeros_like(x, dtype=torch.bool)
    for row in range(0, x.shape[0], 4):
        for column in range(0, x.shape[1], 4):
            tile = x[row : row + 4, column : column + 4].double().abs()
            best = (PATTERNS * tile).sum(dim=(1, 2)).argmax()
            mask[row : row + 4, column : column + 4] = PATTERNS[best]
    return mask


def test_a_literal_tile():
    x = torch.tensor([[4, 3, 0, 0], [2, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]]).float()
    kept = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]).bool()
    found = quality(x, kept)
    assert found.energy == pytest.approx((16 + 1 + 1 + 1) / 34)
    assert found.energy_of_best == pytest.approx(19 / 34)
    assert found.sum_of_best == pytest.approx(7 / 14)
    assert found.worst_sum == pytest.approx(7 / 14)
    assert found.worst_energy == pytest.approx(19 / 34)
    assert found.tiles == 1


def test_the_optimum_is_one_and_greedy_less_and_rows_alone_more():
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    best, greedy, row = (quality(x, f(x)) for f in (best_mask, mask_greedy24, mask_row24))
    assert best.sum_of_best == pytest.approx(1)
    assert best.worst_sum == pytest.approx(1)
    assert greedy.sum_of_best < 0.999
    assert greedy.worst_sum < greedy.sum_of_best
    assert row.energy > best.energy > greedy.energy
    assert best.energy_of_best <= 1


def test_the_worst_sum_is_found_among_good_ones_and_zeros_are_no_loss():
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    x[:4, :4] = 0
    mask = best_mask(x)
    assert quality(x, mask).worst_sum == pytest.approx(1)
    mask[4:, 12:] = ~mask[4:, 12:]
    assert quality(x, mask).worst_sum < 0.9


def test_a_large_matrix_is_sampled_in_tile_rows_spread_over_it():
    x = torch.ones(64, 16)
    mask = mask_row24(x)
    mask[32:36] = False  # the ninth of 16 rows of four tiles
    assert quality(x, mask, tiles=16).tiles == 16
    assert quality(x, mask, tiles=16).worst_sum == 0
    assert quality(x, mask, tiles=10**6).tiles == 64
    mask[32:36], mask[36:40] = mask[:4], False
    assert quality(x, mask, tiles=16).worst_sum == 1
    assert quality(x, mask, tiles=10**6).worst_sum == 0
