"""The scale of S-STE."""

import pytest
import torch

from sparsetrain.reference.soft_threshold24 import soft_scale24


def test_the_scale_of_gaussian_weights_is_1_483():
    x = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    assert soft_scale24(x).item() == pytest.approx(1.483, abs=0.004)


def test_the_scale_of_uniform_weights_is_1_750():
    x = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert soft_scale24(x).item() == pytest.approx(1.750, abs=0.004)


def test_the_scale_of_one_group_by_hand():
    # S = [2, 0, 1, 0]: (3·2 + 2·1) / (4 + 1)
    beta = soft_scale24(torch.tensor([[3.0, -1, 2, 0.5]], dtype=torch.bfloat16))
    assert beta.dtype == torch.float32
    assert beta.tolist() == pytest.approx([1.6])


@pytest.mark.parametrize("x", [torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(0, 4)])
def test_the_scale_is_one_where_nothing_is_left(x):
    assert soft_scale24(x).tolist() == [1.0]
