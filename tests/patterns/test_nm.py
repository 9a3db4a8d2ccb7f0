"""The frozen types of patterns."""

import pytest
import torch

from sparsetrain.patterns import NM


def test_the_default_is_two_of_four_at_density_one_half():
    assert NM() == NM(2, 4)
    assert NM().density == 0.5
    assert str(NM(1, 8)) == "1:8"


def test_groups_with_too_many_non_zeros_are_counted():
    x = torch.tensor([[1.0, 2, 0, 0, 1, 2, 3, 0], [1, 1, 1, 1, 0, 0, 0, float("nan")]])
    assert NM().count_violations(x) == 2
    assert not NM().holds(x)
    assert NM(4, 4).holds(x)


def test_negative_zero_is_a_zero_and_nan_is_not():
    assert NM().holds(torch.tensor([1.0, -0.0, -0.0, 2.0]))
    assert not NM().holds(torch.tensor([1.0, float("nan"), 0.0, 2.0]))


def test_an_empty_matrix_has_the_pattern():
    assert NM().holds(torch.zeros(0, 8))


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, 4)])
def test_a_pattern_keeps_at_least_one_and_at_most_all(n, m):
    with pytest.raises(ValueError, match=rf"n:m = {n}:{m}|n={n}: give a whole number"):
        NM(n, m)


def test_a_last_dimension_of_broken_groups_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 6\).*m = 4"):
        NM().count_violations(torch.zeros(2, 6))
