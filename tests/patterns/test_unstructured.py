"""Unstructured sparsity: the highest scores of a matrix."""

import pytest
import torch

from sparsetrain.patterns import Unstructured


def test_the_highest_are_kept_and_ties_keep_the_first():
    score = torch.tensor([[1.0, 3.0, 2.0], [2.0, float("nan"), 0.0]])
    assert Unstructured(0.5).mask(score).tolist() == [[False, True, True], [True, False, False]]
    assert Unstructured(1 / 3).mask(score).tolist() == [[False, True, True], [False] * 3]


def test_it_is_what_sorting_keeps():
    score = torch.randn(37, 20, generator=torch.Generator().manual_seed(0)).abs()
    least = score.flatten().sort().values[-74]
    assert torch.equal(Unstructured(0.1).mask(score), score >= least)


def test_at_least_one_is_kept_and_what_is_beyond_is_counted():
    pattern = Unstructured(0.01)
    assert int(pattern.mask(torch.rand(3, 4)).sum()) == 1
    assert pattern.count_violations(torch.eye(3)) == 2
    assert pattern.holds(torch.zeros(3, 3))


@pytest.mark.parametrize("density", [0, -0.1, 1.1, True])
def test_a_density_that_is_no_share_is_refused(density):
    with pytest.raises(ValueError, match=f"density={density}: give the share"):
        Unstructured(density)
