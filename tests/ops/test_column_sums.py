"""column_sums: the sum over rows, as accurate as float32 sums are."""

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch, gaussian
from torch import Tensor

from sparsetrain.ops import column_sums

INF, NAN = float("inf"), float("nan")


def check_sums(x: Tensor) -> Tensor:
    """Hold column_sums of a matrix on any device to float64; returns them."""
    got = column_sums(x)
    by_torch = x.sum(0, dtype=torch.promote_types(x.dtype, torch.float32))
    assert got.dtype == by_torch.dtype
    assert got.device == x.device
    assert got.is_contiguous()
    assert_as_accurate_as_torch(got, by_torch, x.double().sum(0))
    return got


def test_two_rows_by_hand():
    assert column_sums(torch.tensor([[1.0, 2, -3], [10, 20, 3]])).tolist() == [11, 22, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (1000, 12), (257, 130)])
def test_sums_are_those_of_float64(rows, columns, dtype):
    check_sums(gaussian(rows, columns, dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_16_bit_numbers_are_not_rounded_to_16_bits(dtype):
    ones = torch.ones(4099, 2, dtype=dtype)  # which neither dtype can represent
    assert column_sums(ones).tolist() == [4099, 4099]
    beyond = torch.full((4, 1), torch.finfo(torch.float16).max, dtype=dtype)
    assert column_sums(beyond).item() == 4 * beyond[0].item()


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (4, 0), (0, 0)])
def test_no_rows_sum_to_zero(rows, columns):
    assert column_sums(torch.ones(rows, columns)).tolist() == [0] * columns


def test_what_is_not_finite_stays_in_its_column():
    x = gaussian(9, 6)
    x[3, 1], x[4, 2], x[5, 3], x[2, 4], x[7, 4] = NAN, INF, -INF, INF, -INF
    got = column_sums(x)
    assert got[[1, 4]].isnan().all()
    assert got[[2, 3]].tolist() == [INF, -INF]
    assert got[[0, 5]].isfinite().all()


def test_vectors_and_integers_are_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"^x: expected 2 dimensions, got shape \(3,\); flatten"):
        column_sums(torch.ones(3))
    with pytest.raises(ValueError, match=r"^x: torch.int64 is not supported; use float32"):
        column_sums(torch.ones(3, 4).long())
