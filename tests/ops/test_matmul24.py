"""matmul24 against a dense product in float64, as accurate as PyTorch's own."""

import pytest
import torch
from matmul_checks import LAYOUTS, check_sizes, devices
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import mask24, matmul24, pack24, select24, sparsify24, unpack24

A = pack24(torch.tensor([[0.0, 2, 0, 3]]), torch.tensor([[0b1010]]).byte())
B = torch.tensor([[100.0, 1], [10, 2], [100, 3], [1, 4]])


def packed(rows, columns, dtype):
    x = gaussian(rows, columns, dtype)
    return pack24(x, select24(x, "row"))


def test_a_product_by_hand():
    assert matmul24(*A, B).tolist() == [[23, 16]]
    assert matmul24(*A, B, torch.tensor([1.0, 2])).tolist() == [[24, 18]]
    assert matmul24(*A, B, torch.tensor([5.0]), True).tolist() == [[28], [21]]


def test_an_activation_comes_after_the_bias_and_before_the_residual():
    bias, residual = torch.tensor([-25.0, -13]), torch.tensor([[100.0, 200]])
    given = *A, B, bias, False, None
    assert matmul24(*given, "squared_relu").tolist() == [[0, 9]]
    assert matmul24(*given, "squared_relu", residual).tolist() == [[100, 209]]
    assert matmul24(*given, "none", residual).tolist() == [[98, 203]]
    got = matmul24(*given, "gelu", residual)
    torch.testing.assert_close(got, torch.tensor([[99.9545, 202.99595]]))  # -2 Φ(-2), 3 Φ(3)


@devices
def test_a_product_is_rounded_once_after_all_that_follows(device):
    a = torch.tensor([[1.0, 0, 0.0078125, 0]]).bfloat16().to(device)
    values, meta = pack24(a, select24(a, "row"))
    b = torch.tensor([[1.0], [0], [0.5], [0]]).to(a)  # A b = 1 + 2^-8, half a step
    small = torch.tensor([2.0**-8]).to(a)
    assert matmul24(values, meta, b).item() == 1
    assert matmul24(values, meta, b, small).item() == 1 + 2.0**-7
    assert matmul24(values, meta, b, residual=small[None]).item() == 1 + 2.0**-7
    assert matmul24(values, meta, b, -torch.ones(1).to(a)).item() == 2.0**-8
    got = matmul24(values, meta, b, small, False, torch.float32, "squared_relu")
    assert got.item() == (1 + 2.0**-7) ** 2


@pytest.mark.parametrize("transpose_out", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_accurate_as_pytorch_in_every_layout_after_every_epilogue(dtype, layout, transpose_out):
    sizes = [(65, 33, 68), (1, 8, 4), (3, 1, 8), (0, 4, 8), (5, 0, 8), (5, 4, 0)]
    check_sizes(sizes, dtype, layout, transpose_out, lambda product: product.check_all())


def test_float64_stays_float64():
    values, meta = packed(5, 8, torch.float64)
    b, residual = gaussian(8, 3, torch.float64, seed=1), gaussian(5, 3, torch.float64, seed=2)
    got = matmul24(values, meta, b, activation="squared_relu", residual=residual)
    expected = (unpack24(values, meta) @ b).relu() ** 2 + residual
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_result_of_16_bit_operands_is_not_rounded_to_16_bits(dtype):
    values, meta = packed(16, 64, dtype)
    b = gaussian(64, 8, dtype, seed=1)
    got = matmul24(values, meta, b, out_dtype=torch.float32)
    a = unpack24(values, meta)
    assert got.dtype == torch.float32
    assert_as_accurate_as_torch(got, a.float() @ b.float(), a.double() @ b.double())
    assert not torch.equal(got, got.to(dtype).float())


def test_autocast_does_not_round_the_operands():
    values, meta = packed(16, 64, torch.float32)
    b = gaussian(64, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        got = matmul24(values, meta, b)
    assert torch.equal(got, matmul24(values, meta, b))


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
    for call in (matmul24, torch.ops.sparsetrain.matmul24):
        with pytest.raises(ValueError, match=complaint):
            call(**arguments)


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
    with pytest.raises(ValueError, match="b: on meta, but values is on cpu"):
        matmul24(*packed(4, 8, torch.float32), torch.ones(8, 3, device="meta"))


@pytest.mark.parametrize("activation", ["relu", "GELU", ""])
def test_an_unknown_activation_is_refused(activation):
    words = f"activation: '{activation}' is unknown; use one of none, squared_relu, gelu"
    refused(words, activation=activation)


def test_a_residual_that_is_not_like_the_result_is_refused():
    refused(r"residual: shape \(3, 4\) should be \(4, 3\)", residual=torch.ones(3, 4))
    refused(r"residual: shape \(1, 3\) should be \(4, 3\)", residual=torch.ones(1, 3))
    refused(
        r"residual: shape \(4, 3\) should be \(3, 4\)",
        residual=torch.ones(4, 3),
        transpose_out=True,
    )
    words = r"residual: torch\.float16, but what is returned is torch\.float32; cast it"
    refused(words, residual=torch.ones(4, 3).half())
    values, meta = packed(4, 8, torch.float16)
    words = r"residual: torch\.float32, but what is returned is torch\.float16; .*out_dtype"
    with pytest.raises(ValueError, match=words):
        matmul24(values, meta, torch.ones(8, 3).half(), residual=torch.ones(4, 3))
    with pytest.raises(ValueError, match="residual: on meta, but values is on cpu"):
        matmul24(*packed(4, 8, torch.float32), B.repeat(2, 1), residual=torch.ones(4, 2).to("meta"))
