"""Quantizing, against a search through all values of the 8-bit dtypes in plain Python."""

import math

import numpy as np
import pytest
import torch
from ops_checks import gaussian

from sparsetrain.reference.quantize import SCALINGS, dequantize, quantize, spread

E4M3, INT8 = torch.float8_e4m3fn, torch.int8
LARGEST = {E4M3: 448, INT8: 127}
INF, NAN = math.inf, math.nan

every_scaling = pytest.mark.parametrize("scaling", SCALINGS)
dtypes = pytest.mark.parametrize("dtype", [E4M3, INT8], ids=str)


def e4m3_values():
    """Give the magnitudes of float8_e4m3fn by their code: 4 bits of exponent, 3 of mantissa."""
    codes = [divmod(code, 8) for code in range(127)]  # 127 is NaN
    return [(m / 8 if e == 0 else 1 + m / 8) * 2.0 ** (max(e, 1) - 7) for e, m in codes]


MAGNITUDES = {E4M3: e4m3_values(), INT8: [float(i) for i in range(128)]}


def nearest(y, dtype):
    """Round to the nearest value of a dtype by looking at all of them, ties to the even code."""
    magnitudes = MAGNITUDES[dtype]
    code = min(range(len(magnitudes)), key=lambda i: (abs(magnitudes[i] - abs(y)), i % 2))
    return math.copysign(magnitudes[code], y)


def by_hand(x, dtype, rows, columns, power_of_two=False):
    """Quantize a matrix of numbers, block by block of rows x columns."""
    R, C = x.shape
    q, scales = np.zeros((R, C)), np.zeros((-(-R // rows), -(-C // columns)), np.float32)
    for down, across in np.ndindex(*scales.shape):
        part = np.s_[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns]
        block = x.numpy()[part].astype(np.float32)
        amax = max(np.float32(1e-12), np.abs(block).max())
        inverse = np.float32(LARGEST[dtype]) / amax
        if power_of_two:
            inverse = np.float32(2.0 ** (math.frexp(inverse)[1] - 1))
        scales[down, across] = np.float32(1) / inverse
        q[part] = [[nearest(float(y), dtype) for y in row] for row in block * inverse]
    return torch.tensor(q), torch.tensor(scales)


def test_a_row_by_hand():
    q, scales = quantize(torch.tensor([[-448.0, 19, 1.05, 0]]), E4M3, "row", False)
    assert q.float().tolist() == [[-448, 20, 1, 0]]  # 19 lies between 18 and 20, whose code is even
    assert scales.tolist() == [[1]]
    q, scales = quantize(torch.tensor([[-254.0, 5, 3, 2]]), INT8, "row", False)
    assert q.tolist() == [[-127, 2, 2, 1]]
    assert scales.tolist() == [[2]]


@dtypes
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize(
    ("scaling", "rows", "columns"), [("row", 1, 1000), ("block", 128, 128), ("tensor", 1000, 1000)]
)
def test_each_block_is_quantized_as_by_hand(scaling, rows, columns, power_of_two, dtype):
    x = gaussian(130, 20) * 10 ** gaussian(130, 1, seed=1)
    x = x.T.contiguous() if scaling == "block" else x
    got, scales = quantize(x, dtype, scaling, power_of_two)
    expected, expected_scales = by_hand(x, dtype, rows, columns, power_of_two)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(got.double(), expected)


def test_every_value_is_its_own_rounding():
    x = torch.tensor([MAGNITUDES[E4M3], [-m for m in MAGNITUDES[E4M3]]])
    q, scales = quantize(x, E4M3, "row", False)
    assert torch.equal(scales, torch.ones(2, 1))
    assert torch.equal(q.float(), x)


@every_scaling
@dtypes
def test_zeros_stay_zeros_with_a_finite_scale(dtype, scaling):
    x = gaussian(130, 4)
    x[2] = 0
    q, scales = quantize(x, dtype, scaling, False)
    assert q[2].float().count_nonzero() == 0
    assert scales.isfinite().all()
    assert (scales > 0).all()
    q, scales = quantize(torch.zeros(3, 4), dtype, scaling, True)
    assert q.float().count_nonzero() == 0
    assert torch.equal(dequantize(q, scales), torch.zeros(3, 4))


@dtypes
def test_a_tiny_block_loses_no_range_to_the_least_scale(dtype):
    x = torch.tensor([[1e-12, 5e-13, 0, -1e-12]])
    q, scales = quantize(x, dtype, "row", False)
    torch.testing.assert_close(dequantize(q, scales), x, rtol=0.1, atol=0)


@pytest.mark.parametrize("power_of_two", [False, True])
@dtypes
def test_a_block_that_is_not_finite_stands_for_nan_and_its_neighbours_do_not(dtype, power_of_two):
    x = torch.tensor([[1.0, NAN, 2, 3], [1, INF, 2, -3], [1, -INF, NAN, 4], [1, 2, 3, 4]])
    q, scales = quantize(x, dtype, "row", power_of_two)
    assert scales[0].isnan()
    assert scales[1].isinf()
    assert scales[2].isnan()
    assert dequantize(q, scales).isnan().any(dim=1).tolist() == [True, True, True, False]
    assert dequantize(q, scales)[:3].isfinite().sum() == 0
    if dtype == E4M3:
        assert q[1].float().isnan().tolist() == [False, True, False, False]
    else:
        assert q[:3].tolist() == [[0] * 4] * 3


@dtypes
def test_nothing_saturates_into_nan_and_the_largest_stays_the_largest(dtype):
    x = torch.rand(20000, 2, generator=torch.Generator().manual_seed(0)) + 0.01
    x[:, 1] = -x.abs().amax(dim=1)
    q, _ = quantize(x, dtype, "row", False)
    assert (q[:, 1].float() == -LARGEST[dtype]).all()
    for largest in (3.4e38, 1e300):
        q, scales = quantize(torch.tensor([[largest, 1]], dtype=torch.float64), dtype, "row", False)
        assert scales.isinf().any() == (largest > 3.5e38), "beyond float32 is infinite"


def test_what_a_cast_makes_nan_is_clamped():
    """PyTorch's cast of 465 is NaN on a CPU before 2.14."""
    q, _ = quantize(torch.tensor([[465.0, -1e9]]), E4M3, "tensor", True)
    assert q.float().isfinite().all()


@every_scaling
def test_powers_of_two_are_the_next_ones_above(scaling):
    x = gaussian(140, 260)
    _, plain = quantize(x, E4M3, scaling, False)
    q, scales = quantize(x, E4M3, scaling, True)
    assert (torch.frexp(scales).mantissa == 0.5).all()
    assert (scales >= plain * (1 - 1e-6)).all()
    assert (scales < 2 * plain).all()
    # Scaling by a power of two is exact: only the rounding to 8 bits remains.
    assert torch.equal(q.float(), (x / spread(scales, 140, 260)).to(E4M3).float())


def test_the_numbers_are_those_of_torchao():
    # amax_to_scale and to_fp8_saturated of torchao's float8_utils.py
    x = gaussian(64, 100, torch.bfloat16)
    scale = (448 / x.float().abs().amax(dim=1, keepdim=True).double().clamp(min=1e-12)).float()
    for power_of_two in (False, True):
        scale = torch.exp2(torch.floor(torch.log2(scale))) if power_of_two else scale
        expected = (x.float() * scale).clamp(-448, 448).to(E4M3)
        q, scales = quantize(x, E4M3, "row", power_of_two)
        assert torch.equal(q.float(), expected.float())
        assert torch.equal(scales, scale.reciprocal())


@every_scaling
@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (3, 0), (0, 0), (1, 1), (129, 300)])
def test_any_size_comes_back_within_half_a_step(rows, columns, scaling):
    x = gaussian(rows, columns)
    q, scales = quantize(x, E4M3, scaling, False)
    block = -(-rows // 128), -(-columns // 128)
    assert tuple(scales.shape) == {"row": (rows, 1), "block": block, "tensor": (1, 1)}[scaling]
    step = torch.maximum(q.float().abs() / 16, torch.tensor(2.0**-10)) * 1.001
    assert ((dequantize(q, scales) - x).abs() <= step * spread(scales, rows, columns)).all()
