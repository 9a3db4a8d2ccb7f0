"""Block sparsity: which blocks are kept, against every possible choice and by counts."""

from itertools import combinations, product

import pytest
import torch

from sparsetrain.patterns import Block

FREE = Block(2, 4, density=0.25, balanced=False)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(mask, rows, columns):
    """[P, Q] of a mask that keeps whole blocks."""
    return mask[::rows, ::columns]


def test_the_best_blocks_are_kept_whole():
    score = torch.zeros(4, 8)
    score[1, 6] = 5.0  # block (0, 1)
    mask = FREE.mask(score)
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:2, 4:] = True
    assert torch.equal(mask, expected)
    assert FREE.why_not(mask) == ""
    mask[0, 4] = False
    assert FREE.why_not(mask) == "cuts blocks apart"


def test_free_blocks_are_the_best_of_every_choice():
    score = gaussian(6, 12).abs()
    sums = score.reshape(3, 2, 3, 4).sum((1, 3)).flatten()
    best = max(combinations(range(9), 2), key=lambda chosen: float(sums[list(chosen)].sum()))
    kept = blocks(FREE.mask(score, 2 / 9), 2, 4).flatten().nonzero().flatten()
    assert sorted(kept.tolist()) == sorted(best)


@pytest.mark.parametrize(("P", "Q"), [(4, 4), (3, 12), (12, 3), (5, 7), (16, 16)])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_balanced_rows_keep_as_many_and_columns_differ_by_one_at_most(P, Q, density):
    for seed in range(5):
        kept = Block(1, 2, 0.5).mask(gaussian(P, 2 * Q, seed=seed).abs(), density)
        kept = blocks(kept, 1, 2)
        assert set(kept.sum(1).tolist()) == {max(1, round(density * Q))}
        assert kept.sum(0).max() - kept.sum(0).min() <= 1


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_masks_are_balanced_where_scores_are_not_finite(odd):
    for seed in range(10):
        score = gaussian(6, 9, seed=seed).abs()
        score[gaussian(6, 9, seed=seed + 1) > 0.5] = odd
        score[seed % 6] = odd
        kept = Block(1, 1, 0.3).mask_of(score)
        assert set(kept.sum(1).tolist()) == {3}
        assert set(kept.sum(0).tolist()) == {2}


def test_balanced_blocks_are_near_the_best_of_every_choice():
    rows = [torch.tensor(row) for row in product([False, True], repeat=4) if sum(row) == 2]
    choices = [torch.stack(chosen) for chosen in product(rows, repeat=4)]
    choices = [chosen for chosen in choices if (chosen.sum(0) == 2).all()]
    assert len(choices) == 90
    ratios = []
    for seed in range(20):
        score = gaussian(4, 4, seed=seed).abs()
        best = max(float(score[chosen].sum()) for chosen in choices)
        ratios.append(float(score[Block(1, 1, 0.5).mask(score)].sum()) / best)
    assert min(ratios) > 0.85
    assert sum(ratios) / 20 > 0.97


def test_a_density_of_its_own_is_taken_for_a_ramp():
    score = gaussian(8, 16).abs()
    wide, narrow = FREE.mask(score, 0.75), FREE.mask(score)
    assert wide.float().mean() == 0.75
    assert narrow.float().mean() == 0.25
    assert (wide | ~narrow).all(), "what is kept later was kept before"


def test_what_is_beyond_the_density_is_counted():
    pattern = Block(2, 4, 0.5)
    x = pattern.mask(gaussian(4, 16).abs()).float()
    assert pattern.holds(x)
    assert pattern.count_violations(torch.ones(4, 16)) == 4


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Block(0, 4), "rows=0: give a whole number, at least 1"),
        (lambda: Block(16.0, 4), r"rows=16\.0: give a whole number"),  # pyright: ignore
        (lambda: Block((16, 16)), r"rows=\(16, 16\): give a whole number"),  # pyright: ignore
        (lambda: Block(density="0.2"), "density='0.2': give the share"),  # pyright: ignore
        (lambda: Block(balanced="no"), "balanced='no': give True or False"),  # pyright: ignore
        (lambda: Block(density=0.0), "density=0.0: give the share"),
        (lambda: Block(density=1.5), "density=1.5"),
        (lambda: FREE.mask(torch.ones(4, 6)), "4×6 is not whole blocks of 2×4"),
        (
            lambda: Block(2, 4).mask(torch.ones(4, 8)),
            "row has 2 blocks of 2×4, too few to",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
