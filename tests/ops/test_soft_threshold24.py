"""soft_threshold24: the vectors of S-STE."""

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import soft_threshold24
from sparsetrain.patterns import NM

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ([3, -1, 2, 0.5], [2, 0, 1, 0]),
        ([0, 0, 2, -5], [0, 0, 2, -5]),
        ([-4, 3, -2, 1], [-2, 1, 0, 0]),
        ([2, -2, 2, 2], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_published_groups(group, expected, dtype):
    x = torch.tensor([group], dtype=dtype)
    assert soft_threshold24(x, ONE).tolist() == [expected]
    assert soft_threshold24(x, 2 * ONE).tolist() == [[2 * value for value in expected]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_threshold_is_the_second_smallest_magnitude_found_by_sorting(dtype):
    x = gaussian(64, 32, dtype)
    got = soft_threshold24(x, torch.tensor([1.483]))
    wide = x.double().reshape(64, 8, 4)
    threshold = wide.abs().sort(dim=-1).values[..., 1:2]
    shrunk = (wide.sign() * (wide.abs() - threshold).clamp(min=0)).reshape(64, 32)
    oracle = torch.tensor([1.483]).double() * shrunk
    assert NM().holds(got)
    assert_as_accurate_as_torch(got, oracle.to(dtype), oracle, floor=1e-6)


def test_a_group_with_nan_is_nan_and_its_neighbour_is_not():
    x = torch.tensor([[1.0, float("nan"), 2, 3, 3, -1, 2, 0.5]])
    got = soft_threshold24(x, ONE)
    assert got[:, :4].isnan().all()
    assert got[:, 4:].tolist() == [[2, 0, 1, 0]]


def test_another_dtype_is_rounded_to_once():
    x, scale = gaussian(16, 32), torch.tensor([1.483])
    got = soft_threshold24(x, scale, torch.bfloat16)
    assert torch.equal(got, soft_threshold24(x, scale).bfloat16())


@pytest.mark.parametrize("scale", [torch.ones(1).double(), torch.ones(2)])
def test_a_scale_that_is_not_one_float32_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale: .* should be one element.*torch\.float32"):
        soft_threshold24(gaussian(4, 4), scale)
