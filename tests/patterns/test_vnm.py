"""V:N:M: against loops over every block, and by counts."""

import pytest
import torch

from sparsetrain.patterns import VNM


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(score, v, n, m):
    """The mask, block by block and row by row, by sorting."""
    mask = torch.zeros(score.shape, dtype=torch.bool)
    for top in range(0, score.shape[0], v):
        for left in range(0, score.shape[1], m):
            block = score[top : top + v, left : left + m].double()
            sums = block.sum(0).tolist()
            columns = sorted(sorted(range(m), key=lambda c: -sums[c])[:4])
            for r in range(v):
                row = block[r].tolist()
                for c in sorted(columns, key=lambda c: -row[c])[:n]:
                    mask[top + r, left + c] = True
    return mask


@pytest.mark.parametrize("pattern", [VNM(4, 2, 8), VNM(8, 2, 5), VNM(2, 1, 16), VNM(16, 3, 10)])
def test_four_columns_of_a_block_and_n_of_them_in_each_row_are_kept(pattern):
    for seed in range(3):
        score = gaussian(16, 80, seed=seed).abs()
        mask = pattern.mask(score)
        assert torch.equal(mask, brute_force(score, pattern.v, pattern.n, pattern.m))
        assert mask.float().mean().item() == pytest.approx(pattern.density)
        assert pattern.holds(score * mask)
        assert pattern.why_not(mask) == ""


def test_ties_keep_the_first_and_nan_is_never_kept_for_a_number():
    pattern = VNM(1, 2, 6)
    assert pattern.mask(torch.ones(1, 6)).tolist() == [[True, True, *[False] * 4]]
    score = torch.tensor([[torch.nan, 1.0, 2.0, 3.0, 4.0, 0.0]])
    assert pattern.mask(score).nonzero()[:, 1].tolist() == [3, 4]


def test_the_outer_level_is_of_whole_columns():
    mask = VNM(4, 2, 8).mask(gaussian(8, 16).abs())
    columns = VNM(4, 2, 8).outer(mask)
    blocks = columns.reshape(2, 4, 2, 8)
    assert (blocks == blocks[:, :1]).all()
    assert (blocks.sum(3) <= 4).all()
    assert (columns | ~mask).all()


def test_what_is_beyond_either_level_is_counted_and_named():
    pattern = VNM(2, 2, 8)
    assert pattern.count_violations(torch.ones(4, 8)) == 2 + 4
    wide = torch.zeros(2, 8, dtype=torch.bool)
    wide[0, :2] = wide[1, 2:4] = True
    assert pattern.why_not(wide) == ""
    wide[1, 3], wide[1, 4] = False, True
    assert pattern.why_not(wide) == ""
    three = wide.clone()
    three[0, 2] = True
    assert pattern.why_not(three) == "does not keep 2 of every 8 along rows"
    apart = VNM(3, 2, 8)
    rows = torch.eye(6, dtype=torch.bool).reshape(3, 2, 6).any(1)
    five = torch.cat([rows, torch.zeros(3, 2, dtype=torch.bool)], 1)
    assert apart.why_not(five) == "keeps more than 4 columns of a block"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: VNM(0, 2, 8), "v=0: give a whole number, at least 1"),
        (lambda: VNM(64, 2, 8.0), r"m=8\.0: give a whole number"),  # pyright: ignore
        (lambda: VNM(64, 4, 8), "n must be 1 to 3 of four"),
        (lambda: VNM(64, 2, 4), "and m above 4"),
        (lambda: VNM(2, 2, 5).mask(torch.ones(2, 8)), "2×8 is not whole blocks of 2 rows and 5"),
    ],
)
def test_what_does_not_fit_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
