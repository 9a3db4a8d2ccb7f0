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


FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("to", FLOATS)
def test_the_result_is_rounded_to_another_dtype_after_the_factors(dtype, to):
    x = gaussian(5, 12, dtype)
    mask = gaussian(5, 12, seed=1) > 0
    got = mask24(x, pack_bits(mask), pruned=0.3, dtype=to)
    assert got.dtype == to
    assert torch.equal(got, torch.where(mask, x, x * 0.3).to(to))
    assert torch.equal(mask24(x, pack_bits(mask), dtype=to), torch.where(mask, x, 0).to(to))


def test_a_number_between_two_of_bfloat16_goes_to_the_nearest_and_a_tie_to_even():
    above, tie = 1 + 2**-8 + 2**-20, 1 + 2**-8  # bfloat16 has 1 and 1 + 2**-7
    x = torch.tensor([[above, tie, -above, -tie]])
    got = mask24(x, torch.tensor([[15]]).byte(), dtype=torch.bfloat16)
    assert got.tolist() == [[1 + 2**-7, 1, -1 - 2**-7, -1]]


def test_what_is_pruned_is_zero_in_another_dtype_too():
    x = torch.tensor([[NAN, INF, 1e6, -1.0]])
    got = mask24(x, torch.tensor([[0b1000]]).byte(), dtype=torch.float16)
    assert got.tolist() == [[0, 0, 0, -1]]
    assert not got[:, :3].signbit().any()


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_a_dtype_that_is_no_float_of_16_bits_or_more_is_refused(dtype):
    with pytest.raises(ValueError, match=rf"^dtype: {dtype} is not supported; use float32"):
        mask24(torch.ones(1, 4), torch.tensor([[15]]).byte(), dtype=dtype)


def test_the_mask_that_a_layer_does_not_keep_is_refused_with_where_it_is():
    with pytest.raises(ValueError, match=r"^mask: None; .* current_mask\(\)$"):
        mask24(torch.ones(4, 8), None)  # pyright: ignore[reportArgumentType]
