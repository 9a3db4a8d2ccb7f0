"""mask24: two factors."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import mask24
from sparsetrain.reference.masks24 import pack_bits

INF, NAN = float("inf"), float("nan")


def test_one_row():
    x = torch.tensor([[1.0, 2, 3, 4]])
    mask = torch.tensor([[0b0101]]).byte()
    assert mask24(x, mask).tolist() == [[1, 0, 3, 0]]
    assert mask24(x, mask, kept=0.0, pruned=2.0).tolist() == [[0, 4, 0, 8]]
    assert mask24(x, mask, kept=-1.0, pruned=0.5).tolist() == [[-1, 1, -3, 2]]


def test_a_factor_of_zero_gives_zero_even_of_nan_and_infinity():
    x = torch.tensor([[NAN, INF, -INF, -1.0]])
    zeros = mask24(x, torch.tensor([[0]]).byte())
    assert torch.equal(zeros, torch.zeros(1, 4))
    assert not zeros.signbit().any()
    assert torch.equal(mask24(x, torch.tensor([[15]]).byte(), kept=0.0, pruned=1.0), zeros)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_factors_round_once_in_the_dtype_of_x(dtype):
    x = gaussian(5, 12, dtype)
    mask = gaussian(5, 12, seed=1) > 0
    expected = torch.where(mask, x, x * 0.3)
    got = mask24(x, pack_bits(mask), pruned=0.3)
    assert got.dtype == dtype
    assert torch.equal(got, expected)
