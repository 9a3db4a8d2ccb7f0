"""matmul24 against a dense product in float64, as accurate as PyTorch's own."""

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import mask24, matmul24, pack24, select24, sparsify24, unpack24


def packed(rows, columns, dtype):
    x = gaussian(rows, columns, dtype)
    return pack24(x, select24(x, "row"))


def test_a_product_by_hand():
    values, meta = pack24(torch.tensor([[0.0, 2, 0, 3]]), torch.tensor([[0b1010]]).byte())
    b = torch.tensor([[100.0, 1], [10, 2], [100, 3], [1, 4]])
    assert matmul24(values, meta, b).tolist() == [[23, 16]]
    assert matmul24(values, meta, b, torch.tensor([1.0, 2])).tolist() == [[24, 18]]
    assert matmul24(values, meta, b, torch.tensor([5.0]), True).tolist() == [[28], [21]]


@pytest.mark.parametrize("transpose_out", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_accurate_as_the_dense_product(dtype, with_bias, transpose_out):
    values, meta = packed(40, 64, dtype)
    b = gaussian(64, 24, dtype, seed=1)
    bias = gaussian(1, 40 if transpose_out else 24, dtype, seed=2)[0] if with_bias else None
    a = unpack24(values, meta)
    plain, oracle = a @ b, a.double() @ b.double()
    if transpose_out:
        plain, oracle = plain.T, oracle.T
    if bias is not None:
        plain, oracle = plain + bias, oracle + bias.double()
    got = matmul24(values, meta, b, bias, transpose_out)
    assert got.dtype == dtype
    assert got.is_contiguous()
    assert_as_accurate_as_torch(got, plain, oracle)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_result_of_16_bit_operands_is_not_rounded_to_16_bits(dtype):
    values, meta = packed(16, 64, dtype)
    b = gaussian(64, 8, dtype, seed=1)
    got = matmul24(values, meta, b, out_dtype=torch.float32)
    a = unpack24(values, meta)
    assert got.dtype == torch.float32
    assert_as_accurate_as_torch(got, a.float() @ b.float(), a.double() @ b.double())
    assert not torch.equal(got, got.to(dtype).float())


@pytest.mark.parametrize("tokens", [129, 130, 255, 256])
def test_missing_rows_of_b_are_zero(tokens):
    x = gaussian(tokens, 12)
    _, _, values_t, meta_t, mask, _ = sparsify24(x)
    b = gaussian(tokens, 3, seed=1)
    got = matmul24(values_t, meta_t, b)
    padded = torch.cat([b, torch.zeros(256 - tokens, 3)])
    torch.testing.assert_close(got, matmul24(values_t, meta_t, padded))
    torch.testing.assert_close(got, mask24(x, mask).T @ b)


@pytest.mark.parametrize("transpose_out", [False, True])
def test_an_empty_contraction_is_the_bias(transpose_out):
    _, _, values_t, meta_t, _, _ = sparsify24(torch.zeros(0, 8))
    bias = torch.arange(8.0) if transpose_out else torch.arange(3.0)
    got = matmul24(values_t, meta_t, torch.zeros(0, 3), bias, transpose_out)
    assert torch.equal(got, bias.expand(3 if transpose_out else 8, -1))


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (8, 0)])
def test_empty_results_have_their_shape(rows, columns):
    values, meta = packed(rows, 8, torch.float32)
    assert matmul24(values, meta, torch.ones(8, columns)).shape == (rows, columns)
    assert matmul24(values, meta, torch.ones(8, columns), None, True).shape == (columns, rows)


def refused(complaint, **changes):
    values, meta = packed(4, 8, torch.float32)
    arguments = {"values": values, "meta": meta, "b": torch.ones(8, 3), **changes}
    with pytest.raises(ValueError, match=complaint):
        matmul24(**arguments)


@pytest.mark.parametrize("rows", [4, 9])
def test_a_b_of_the_wrong_height_is_refused(rows):
    refused(rf"b: {rows} rows do not fit .* of 8 columns; pass 8", b=torch.ones(rows, 3))


@pytest.mark.parametrize("rows", [0, 128, 257])
def test_a_b_of_other_tokens_than_the_transpose_is_refused(rows):
    _, _, values_t, meta_t, _, _ = sparsify24(gaussian(200, 8))
    with pytest.raises(ValueError, match=rf"b: {rows} rows do not fit .* of 256 columns; pass 256"):
        matmul24(values_t, meta_t, torch.ones(rows, 3))


def test_a_bias_of_the_other_dimension_is_refused():
    refused(r"bias: shape \(4,\) should be \(3,\)", bias=torch.ones(4))
    refused(r"bias: shape \(3,\) should be \(4,\)", bias=torch.ones(3), transpose_out=True)


def test_mixed_dtypes_are_refused():
    refused(r"b: torch\.bfloat16, but values is torch\.float32", b=torch.ones(8, 3).bfloat16())
    refused(r"bias: torch\.float16, but values", bias=torch.ones(3).half())


def test_a_narrower_result_is_refused():
    refused(r"out_dtype: torch\.bfloat16 from torch\.float32", out_dtype=torch.bfloat16)


def test_operands_on_two_devices_are_refused():
    refused("b: on meta, but values is on cpu", b=torch.ones(8, 3, device="meta"))
