"""8-bit values on CUDA: the bits of the CPU, for every width, scaling and dtype."""

from itertools import product

import pytest
import torch
from kernel_checks import needs_kernels
from ops_checks import gaussian

from sparsetrain.ops import (
    apply24,
    narrow24,
    quantize,
    quantize24,
    quantize_both24,
    select24,
)
from sparsetrain.reference.quantize import SCALINGS

pytestmark = [pytest.mark.gpu, needs_kernels]

E4M3 = torch.float8_e4m3fn
SIZES = [(1, 4), (67, 300), (260, 388), (130, 2056), (5, 40000), (3, 0), (0, 8)]
"""Rows and columns: of whole vectors and not, of one, four and sixteen warps a row, and longer."""

sources = pytest.mark.parametrize("source", [torch.bfloat16, torch.float16, torch.float32], ids=str)
every_scaling = pytest.mark.parametrize("scaling", SCALINGS)
powers = pytest.mark.parametrize("power_of_two", [False, True])
dtypes = pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)


def matrix(rows, columns, source):
    """Give rows of many magnitudes, one of zeros, one with a NaN, one with an infinity."""
    x = (gaussian(rows, columns) * 10 ** gaussian(rows, 1, seed=1)).to(source)
    if rows > 3 and columns:
        x[3], x[1, -1], x[2, 0] = 0, float("nan"), float("inf")
    return x


def assert_same_bits(got, expected):
    """NaN has many bits, and any of them will do."""
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, nan = one.cpu(), other.float().isnan()
        assert torch.equal(one.float().isnan(), nan)
        bits = torch.int32 if other.element_size() == 4 else torch.uint8
        assert torch.equal(one.view(bits)[~nan], other.view(bits)[~nan])


@sources
@every_scaling
@powers
@dtypes
def test_cuda_gives_the_bits_of_the_cpu(source, scaling, power_of_two, dtype):
    given = dtype, scaling, power_of_two
    for rows, columns in SIZES:
        x = matrix(rows, columns, source)
        mask = select24(x, "transposable")
        assert_same_bits(quantize(x.cuda(), *given), quantize(x, *given))
        for op in (quantize24, quantize_both24):
            assert_same_bits(op(x.cuda(), mask.cuda(), *given), op(x, mask, *given))


@sources
@powers
@dtypes
def test_packed_rows_are_narrowed_to_the_bits_of_the_cpu(source, power_of_two, dtype):
    for rows, columns in SIZES:
        x = matrix(rows, columns, source)
        values, meta, *_ = apply24(x, select24(x, "transposable"))
        got = narrow24(values.cuda(), meta.cuda(), dtype, power_of_two)
        assert_same_bits(got, narrow24(values, meta, dtype, power_of_two))


@dtypes
def test_the_strides_of_a_matrix_do_not_matter(dtype):
    x = matrix(67, 300, torch.bfloat16)
    apart = torch.zeros(67, 307, dtype=torch.bfloat16, device="cuda")[:, 3:303].copy_(x)
    down = x.cuda().T.contiguous().T
    for view, scaling in product((apart, down), SCALINGS):
        assert_same_bits(quantize(view, dtype, scaling), quantize(x, dtype, scaling))


def test_float64_runs_the_definition():
    x = matrix(67, 300, torch.float32).double()
    assert_same_bits(quantize(x.cuda(), E4M3), quantize(x, E4M3))
