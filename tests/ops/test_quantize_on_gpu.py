"""8-bit values on CUDA: the bits of the CPU, for every width, scaling and dtype."""

from itertools import product
from typing import Any

import pytest
import torch
from kernel_checks import needs_kernels, poisoned
from ops_checks import gaussian

from sparsetrain.ops import (
    narrow24,
    pack24,
    quantize,
    quantize24,
    quantize_across24,
    quantize_both24,
    select24,
)
from sparsetrain.reference.quantize import SCALINGS

pytestmark = [pytest.mark.gpu, needs_kernels]

E4M3 = torch.float8_e4m3fn
SIZES = [(1, 4), (130, 300), (9, 2056), (300, 264), (3, 0), (0, 8)]
"""Rows and columns: of whole vectors and not, of one and four warps a row."""
HOW = [("row", False), ("row", True), ("block", False), ("block", True), ("tensor", False)]
"""Scaling, and whether scales are powers of two."""
LONG = (2, 40000)
"""Sixteen warps a row, and more than they hold."""

sources = pytest.mark.parametrize("source", [torch.bfloat16, torch.float16, torch.float32], ids=str)
dtypes = pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)


def matrix(rows, columns, source):
    """Give rows of many magnitudes, one of zeros, one with a NaN, one with an infinity."""
    x = (gaussian(rows, columns) * 10 ** gaussian(rows, 1, seed=1)).to(source)
    if rows > 3 and columns:
        x[3], x[1, -1], x[2, 0] = 0, float("nan"), float("inf")
    return x


def assert_same_bits(got, expected, *given):
    """NaN has many bits, and any of them will do."""
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, nan = one.cpu(), other.float().isnan()
        bits = torch.int32 if other.element_size() == 4 else torch.uint8
        same = torch.where(nan, one.float().isnan(), one.view(bits) == other.view(bits))
        assert same.all(), f"result {i} of {given}: {(~same).sum()} of {same.numel()} differ"


@sources
@dtypes
def test_cuda_gives_the_bits_of_the_cpu(source, dtype):
    for (rows, columns), how in product(SIZES, HOW):
        x, given = matrix(rows, columns, source), (dtype, *how)
        mask = select24(x, "transposable")
        calls: list[Any] = [(quantize, x), (quantize24, x, mask), (quantize_both24, x, mask)]
        for op, *args in calls:
            got = on_cuda(op, *args, *given)
            assert_same_bits(got, op(*args, *given), op.__name__, x.shape, *given)


@sources
@dtypes
def test_the_dense_orientation_has_the_bits_of_the_cpu(source, dtype):
    sizes = [*SIZES, (128, 128), (1288, 136), (77, 4104), (1280, 5120)]
    for (rows, columns), power_of_two in product(sizes, (False, True)):
        x = matrix(rows, columns, source)
        given = x, select24(x, "transposable"), dtype
        for across in (False, True):
            got = on_cuda(quantize_across24, *given, across, power_of_two)
            expected = quantize_across24(*given, across, power_of_two)
            got, expected = settled(*got), settled(*expected)
            assert_same_bits(got, expected, x.shape, across, power_of_two)


def settled(values, meta, scales, dense, dense_scales):
    """Without the values of a row whose scale is NaN: places of zeros and of padding may hold NaN
    there or not, and a product is NaN either way."""
    bits = values.view(torch.uint8).masked_fill(scales.isnan(), 0)
    return bits.view(values.dtype), meta, scales, dense, dense_scales


@dtypes
def test_a_mask_that_keeps_fewer_is_taken_and_a_weight_is_its_definition(dtype):
    x = matrix(1024, 768, torch.float32)
    other = select24(x.flip(0), "transposable")
    for mask, scaling in product((select24(x, "greedy") & other, other), ("row", "block")):
        given = mask, dtype, scaling
        got = on_cuda(quantize_both24, x, *given)
        assert_same_bits(got, quantize_both24(x, *given), scaling)
        rows = on_cuda(quantize24, x, *given)
        assert_same_bits(rows, quantize24(x, *given), scaling)
        for columns in (False, True):
            across = on_cuda(quantize_across24, x, mask, dtype, columns)
            assert_same_bits(across, quantize_across24(x, mask, dtype, columns), columns)


@sources
@dtypes
def test_packed_rows_are_narrowed_to_the_bits_of_the_cpu(source, dtype):
    for (rows, columns), power_of_two in product((*SIZES, LONG), (False, True)):
        x = matrix(rows, columns, source)
        packed = pack24(x, select24(x, "row"))
        got = on_cuda(narrow24, *packed, dtype, power_of_two)
        assert_same_bits(got, narrow24(*packed, dtype, power_of_two), x.shape, power_of_two)


@sources
@dtypes
def test_long_rows_are_read_twice(source, dtype):
    x = matrix(*LONG, source)
    assert_same_bits(on_cuda(quantize, x, dtype), quantize(x, dtype))


def on_cuda(op, *given):
    """Call it on the GPU, in poisoned memory."""
    given = [one.cuda() if isinstance(one, torch.Tensor) else one for one in given]
    with poisoned():
        return op(*given)


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
