"""matmul24_sums: a product and its sums. Their accuracy is tested with that of matmul24."""

import pytest
import torch
from matmul_checks import devices
from ops_checks import gaussian

from sparsetrain.ops import matmul24, matmul24_sums, pack24, select24, sparsify24


def packed(rows, columns, dtype=torch.float32):
    x = gaussian(rows, columns, dtype)
    return pack24(x, select24(x, "row"))


def test_sums_by_hand():
    x = torch.tensor([[0.0, 2, 0, 3], [1, 0, 0, 1]])
    a = pack24(x, select24(x, "row"))
    b = torch.tensor([[100.0, 1], [10, 2], [100, 3], [1, 4]])
    out, sums = matmul24_sums(*a, b)
    assert out.tolist() == [[23, 16], [101, 5]]
    assert sums.tolist() == [124, 21]
    out, sums = matmul24_sums(*a, b, torch.tensor([1.0, 2]), True)
    assert out.tolist() == [[24, 103], [17, 7]]
    assert sums.tolist() == [41, 110]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("transpose_out", [False, True])
def test_the_product_is_that_of_matmul24_and_the_sums_are_wide(dtype, transpose_out):
    values, meta = packed(12, 16, dtype)
    b, bias = gaussian(16, 12, dtype, seed=1), gaussian(1, 12, dtype, seed=2)[0]
    out, sums = matmul24_sums(values, meta, b, bias, transpose_out)
    assert torch.equal(out, matmul24(values, meta, b, bias, transpose_out))
    assert sums.dtype == torch.promote_types(dtype, torch.float32)


@devices
def test_what_is_summed_is_not_rounded(device):
    x = torch.tensor([[1.0, 2.0**-8, 0, 0]]).bfloat16().to(device).repeat(64, 1)
    a = pack24(x, select24(x, "row"))
    out, sums = matmul24_sums(*a, torch.ones(4, 1).to(x))
    assert (out == 1).all()
    assert sums.item() == 64.25


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (8, 0)])
def test_sums_of_nothing_are_zero(rows, columns):
    values, meta = packed(rows, 8)
    out, sums = matmul24_sums(values, meta, torch.ones(8, columns), torch.ones(columns))
    assert out.shape == (rows, columns)
    assert torch.equal(sums, torch.zeros(columns))
    out, sums = matmul24_sums(values, meta, torch.ones(8, columns), None, True)
    assert out.shape == (columns, rows)
    assert torch.equal(sums, torch.zeros(rows))


def test_an_empty_contraction_sums_the_bias():
    _, _, values_t, meta_t, _, _ = sparsify24(torch.zeros(0, 8))
    bias = torch.arange(3.0)
    out, sums = matmul24_sums(values_t, meta_t, torch.zeros(0, 3), bias)
    assert torch.equal(out, bias.expand(8, 3))
    assert torch.equal(sums, 8 * bias)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"b": torch.ones(9, 3)}, "b: 9 rows do not fit"),
        ({"b": torch.ones(8, 3).half()}, r"b: torch\.float16, but values is torch\.float32"),
        ({"bias": torch.ones(4)}, r"bias: shape \(4,\) should be \(3,\)"),
        ({"bias": torch.ones(3), "transpose_out": True}, r"bias: shape \(3,\) should be \(4,\)"),
        ({"meta": torch.zeros(1, 1, 512)}, r"meta: torch\.float32 should be uint8"),
    ],
)
def test_what_does_not_fit_is_refused(change, complaint):
    values, meta = packed(4, 8)
    arguments = {"values": values, "meta": meta, "b": torch.ones(8, 3), **change}
    for call in (matmul24_sums, torch.ops.sparsetrain.matmul24_sums):
        with pytest.raises(ValueError, match=complaint):
            call(**arguments)
