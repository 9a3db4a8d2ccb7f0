"""2:4 inside kept blocks: against every choice, level by level, and by counts."""

from itertools import combinations, product

import pytest
import torch

from sparsetrain.nn.choose import choose_mask
from sparsetrain.patterns import NM, Block, Combined
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import EXACT, ROW

FREE = Combined(Block(4, 4, 0.5, balanced=False))
TILES = [
    torch.tensor(rows)
    for rows in product([r for r in product([0, 1], repeat=4) if sum(r) == 2], repeat=4)
    if torch.tensor(rows).sum(0).tolist() == [2] * 4
]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chosen(weight, pattern, selection=EXACT, density=None):
    return unpack_bits(choose_mask(weight, pattern, selection, density), weight.shape[1])


@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
def test_free_blocks_and_what_they_keep_are_the_best_of_every_choice(selection):
    for seed in range(5):
        weight = gaussian(8, 8, seed=seed)
        sums = []
        for p, q in product(range(2), repeat=2):
            tile = weight[4 * p : 4 * p + 4, 4 * q : 4 * q + 4].abs()
            rows = tile.topk(2, 1).values.sum()
            best = max(float((tile * mask).sum()) for mask in TILES)
            sums.append(best if selection == EXACT else float(rows))
        best = max(sums[i] + sums[j] for i, j in combinations(range(4), 2))
        mask = chosen(weight, FREE, selection)
        assert float(weight[mask].abs().sum()) == pytest.approx(best, rel=1e-3)
        assert mask.sum() == 16
        assert FREE.why_not(mask) == ""


def test_both_levels_hold_in_both_orientations():
    pattern = Combined(Block(8, 4, 0.25))
    mask = chosen(gaussian(32, 64), pattern)
    assert pattern.holds(mask.float())
    assert NM(2, 4).holds(mask.float().T)
    assert set(pattern.block.units(mask).flatten().tolist()) == {0.0, 16.0}
    assert mask.float().mean() == pattern.density == 0.125
    assert torch.equal(pattern.outer(mask)[::8, ::4], pattern.block.units(mask) > 0)


def test_the_density_of_a_ramp_begins_with_all_blocks():
    weight = gaussian(16, 16)
    kept = [float(chosen(weight, FREE, density=d).float().mean()) for d in (1.0, 0.5, 0.375, 0.25)]
    assert kept == [0.5, 0.5, 0.375, 0.25]


def test_what_is_beyond_either_level_is_counted_and_named():
    mask = chosen(gaussian(8, 8), FREE)
    assert FREE.count_violations(torch.ones(8, 8)) == 2 + 16
    cut = mask.clone()
    row, column = [int(place) for place in mask.nonzero()[0]]
    cut[row, column // 4 * 4 : column // 4 * 4 + 4] = False
    assert FREE.why_not(cut) == "cuts blocks apart"
    full = mask.clone()
    full[row, column // 4 * 4 : column // 4 * 4 + 4] = True
    assert FREE.why_not(full) == "is not 2:4 along rows"


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match=r"nm=1:4: inside blocks weights can be 2:4"):
        Combined(Block(), NM(1, 4))
    with pytest.raises(ValueError, match=r"block=NM\(n=2, m=4\): give blocks, as Block\(64"):
        Combined(NM(2, 4), Block())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"block=6×8-block 0\.2: .* give multiples of 4"):
        Combined(Block(6, 8))
