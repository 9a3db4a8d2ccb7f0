"""quantize24, quantize_both24 and quantize_across24: what unpacks is the quantized matrix under its
mask."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import (
    mask24,
    narrow24,
    pack24,
    quantize,
    quantize24,
    quantize_across24,
    quantize_both24,
    select24,
    unpack24,
)
from sparsetrain.reference.quantize import SCALINGS

E4M3 = torch.float8_e4m3fn

every_scaling = pytest.mark.parametrize("scaling", SCALINGS)
dtypes = pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)


def numbers(x):
    """Give 8-bit values as numbers, which compare."""
    return x.float()


def test_one_group_with_the_scale_of_what_is_kept():
    x = torch.tensor([[896.0, 20, 448, 30]])
    values, meta, scales = quantize24(x, torch.tensor([[0b1100]]).byte(), E4M3)
    assert values.float().tolist() == [[448, 30]]
    assert scales.tolist() == [[1]]
    assert meta.shape == (1, 1, 1024)
    assert meta[0, 0, 0] == 2 | 3 << 2
    assert meta[0, 0, 1:].count_nonzero() == 0


def test_what_is_pruned_has_no_part_in_the_scales_even_when_it_is_not_finite():
    x = torch.tensor([[float("nan"), 448, float("inf"), 1]])
    values, _, scales = quantize24(x, torch.tensor([[0b1010]]).byte(), E4M3)
    assert values.float().tolist() == [[448, 1]]
    assert scales.tolist() == [[1]]


@every_scaling
@dtypes
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
def test_unpacking_gives_back_the_quantized_matrix(given, dtype, scaling):
    x = gaussian(70, 140, given)
    mask = select24(x, "row")
    values, meta, scales = quantize24(x, mask, dtype, scaling, True)
    expected, expected_scales = quantize(mask24(x, mask), dtype, scaling, True)
    assert torch.equal(numbers(unpack24(values, meta)), numbers(expected))
    assert torch.equal(scales, expected_scales)


@every_scaling
@dtypes
@pytest.mark.parametrize("rows", [1, 130, 256])
def test_the_other_orientation_is_the_transpose_quantized_with_the_same_mask(rows, dtype, scaling):
    x = gaussian(rows, 132, torch.bfloat16)
    mask = select24(x, "transposable")
    *both, values_t, meta_t, scales_t = quantize_both24(x, mask, dtype, scaling)
    for one, other in zip(both, quantize24(x, mask, dtype, scaling), strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    padded = torch.zeros(rows + -rows % 128, 132)
    padded[:rows] = mask24(x, mask)
    expected, expected_scales = quantize(padded.T, dtype, scaling)
    assert torch.equal(numbers(unpack24(values_t, meta_t)), numbers(expected))
    assert torch.equal(scales_t, expected_scales)
    if scaling != "row":
        assert torch.equal(scales_t, both[2].T)


@dtypes
@pytest.mark.parametrize("rows", [1, 130, 256])
@pytest.mark.parametrize("columns", [False, True])
def test_what_is_packed_in_one_orientation_is_dense_in_the_other(columns, rows, dtype):
    x = gaussian(rows, 132, torch.bfloat16)
    mask = select24(x, "transposable")
    *packed, q, scales = quantize_across24(x, mask, dtype, columns, True)
    both = quantize_both24(x, mask, dtype, "row", True)
    for one, other in zip(packed, both[3:] if columns else both[:3], strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    pruned = mask24(x, mask)
    expected, expected_scales = quantize(pruned if columns else pruned.T, dtype, "row", True)
    assert torch.equal(numbers(q), numbers(expected))
    assert torch.equal(scales, expected_scales)
    assert q.is_contiguous()


def test_zeros_of_the_dense_orientation_stay_zeros_beside_a_nan():
    x = torch.tensor([[float("nan"), 1, 2, 3]])
    *_, q, scales = quantize_across24(x, torch.tensor([[0b0011]]).byte(), E4M3, True)
    assert scales.isnan().all()
    assert q.float()[0, 2:].tolist() == [0, 0]


@dtypes
@pytest.mark.parametrize("power_of_two", [False, True])
def test_packed_rows_narrow_to_what_quantize24_makes_of_the_matrix(dtype, power_of_two):
    x = gaussian(70, 140, torch.bfloat16)
    mask = select24(x, "greedy")  # some groups keep fewer than two
    got = narrow24(*pack24(x, mask), dtype, power_of_two)
    expected = quantize24(x, mask, dtype, "row", power_of_two)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_a_crowded_group_is_refused():
    full = torch.full((4, 1), 0b0111_0011).byte()
    with pytest.raises(ValueError, match=r"mask: keeps more than two of row 0, columns 4 to 7"):
        quantize24(torch.ones(4, 8), full, E4M3)
    with pytest.raises(ValueError, match="mask: a row of the 4x4 tile at row 0, column 4 keeps"):
        quantize_both24(torch.ones(4, 8), full, E4M3)
    rows_alone = torch.full((4, 1), 0b0011_0011).byte()
    with pytest.raises(ValueError, match="mask: a column of the 4x4 tile at row 0, column 0 keeps"):
        quantize_both24(torch.ones(4, 8), rows_alone, E4M3)
    with pytest.raises(ValueError, match="mask: a column of the 4x4 tile at row 0, column 0 keeps"):
        quantize_across24(torch.ones(4, 8), rows_alone, E4M3, False)


def test_an_orientation_across_that_has_no_scales_is_refused():
    x = gaussian(4, 8)
    mask = select24(x, "transposable")
    with pytest.raises(
        ValueError, match=r"^dtype: torch\.float8_e5m2 is not supported; use float8"
    ):
        quantize_across24(x, mask, torch.float8_e5m2, True)
    with pytest.raises(ValueError, match=r"^x: torch\.float8_e4m3fn is not supported; use float32"):
        quantize_across24(x.to(E4M3), mask, E4M3, True)


@pytest.mark.parametrize("name", ["quantize", "quantize24", "quantize_both24"])
def test_what_has_no_scales_is_refused_in_one_line(name):
    x = gaussian(4, 8)
    first = (x,) if name == "quantize" else (x, select24(x, "transposable"))
    op = getattr(torch.ops.sparsetrain, name)
    words = r"^dtype: torch\.float8_e5m2 is not supported; use float8_e4m3fn or int8$"
    with pytest.raises(ValueError, match=words):
        op(*first, torch.float8_e5m2)
    with pytest.raises(ValueError, match=r"^scaling: 'column' is unknown; use one of row, b"):
        op(*first, E4M3, "column")
    with pytest.raises(ValueError, match=r"^x: torch\.float8_e4m3fn is not supported; use float32"):
        op(x.to(E4M3), *first[1:], E4M3)


def test_metadata_of_16_bit_values_is_refused():
    values, _, _ = quantize24(gaussian(4, 8), select24(gaussian(4, 8), "row"), E4M3)
    with pytest.raises(ValueError, match=r"meta: shape \(1, 1, 512\) should be \(1, 1, 1024\)"):
        unpack24(values, torch.zeros(1, 1, 512).byte())
