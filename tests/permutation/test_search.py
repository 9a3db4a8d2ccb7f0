"""The search against every split of eight units, tried with the reference masks."""

import itertools

import pytest
import torch

from sparsetrain.permutation.search import find_order
from sparsetrain.reference.masks24 import mask_row24, mask_transposable24


def integers(*shape, seed=0):
    """Scores whose largest is 4095, so that the search rounds none."""
    x = torch.randint(0, 4096, shape, generator=torch.Generator().manual_seed(seed)).float()
    x.view(-1)[0] = 4095
    return x


def kept_in_tiles(x_UW):
    return (x_UW * mask_transposable24(x_UW)).sum().item()


def kept_in_lines(x_UL):
    return (x_UL.T * mask_row24(x_UL.T.contiguous())).sum().item()


def best_split(kept):
    return max(
        kept([*four, *(u for u in range(8) if u not in four)])
        for four in itertools.combinations(range(8), 4)
    )


@pytest.mark.parametrize(("tiles", "lines"), [(16, 0), (0, 5), (8, 3)])
def test_eight_units_are_split_as_the_best_of_all_splits(tiles, lines):
    for seed in range(5):
        in_tiles = integers(8, tiles + 4, seed=seed)[:, :tiles].contiguous()
        in_lines = integers(8, lines + 4, seed=9 + seed)[:, :lines].contiguous()
        (in_tiles if tiles else in_lines)[0, 0] = 4095  # the largest: nothing is rounded

        def kept(order, in_tiles=in_tiles, in_lines=in_lines):
            total = kept_in_tiles(in_tiles[order]) if tiles else 0.0
            return total + (kept_in_lines(in_lines[order]) if lines else 0.0)

        order = find_order(in_tiles[None], in_lines[None], rounds=1, seed=0)[0]
        assert sorted(order.tolist()) == list(range(8))
        assert kept(order.tolist()) == best_split(kept)


def test_more_rounds_never_keep_less_and_sets_do_not_mix():
    scores = integers(2, 36, 16)
    nothing = torch.zeros(2, 36, 0)
    kept = []
    for rounds in (1, 4, 16):
        order = find_order(scores, nothing, rounds, seed=0)
        assert (order.sort(dim=1).values == torch.arange(36)).all()
        kept.append([kept_in_tiles(x[o]) for x, o in zip(scores, order, strict=True)])
    assert (torch.tensor(kept).diff(dim=0) >= 0).all()
    assert kept[-1][0] > kept_in_tiles(scores[0])


def test_equal_scores_change_nothing():
    order = find_order(torch.ones(1, 16, 8), torch.zeros(1, 16, 0), rounds=3, seed=0)
    assert order.tolist() == [list(range(16))]
