"""scaled_matmul24 against float64 of the same quantized operands, as accurate as PyTorch's own."""

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import (
    quantize,
    quantize24,
    quantize_both24,
    scale_checks,
    scaled_matmul24,
    select24,
)
from sparsetrain.reference.quantize import SCALINGS, Scaling

E4M3, INT8 = torch.float8_e4m3fn, torch.int8

dtypes = pytest.mark.parametrize("dtype", [E4M3, INT8], ids=str)
scalings = pytest.mark.parametrize(
    ("scaling", "scaling_b"), [*((s, s) for s in SCALINGS), ("block", "row"), ("row", "block")]
)


def packed(rows, columns, dtype=E4M3, scaling: Scaling = "row"):
    x = gaussian(rows, columns)
    return quantize24(x, select24(x, "row"), dtype, scaling)


def quantized(rows, columns, dtype=E4M3, scaling: Scaling = "row"):
    """Give b [rows, columns] and its scales, quantized column by column."""
    q, scales = quantize(gaussian(columns, rows, seed=1), dtype, scaling)
    return q.T, scales.T


def block_of(i, size, scales):
    """Give which of so many scales an index of a dimension has."""
    return i // 128 if scales == -(-size // 128) != size else i if scales == size else 0


def scaled(q, scales):
    """Give q times its scales in float64, element by element."""
    down, across = (
        [block_of(i, size, n) for i in range(size)]
        for size, n in zip(q.shape, scales.shape, strict=True)
    )
    return q.double() * scales.double()[down][:, across]


def unpacked(values, meta):
    """Give the dense matrix of packed values by the lanes and registers of wgmma.sp."""
    rows, columns = values.shape[0], 2 * values.shape[1]
    r, c = torch.arange(rows)[:, None], torch.arange(0, columns, 4)
    lane = r % 8 * 4 + c // 32 % 2 * 2 + r // 8 % 2 + r // 16 % 4 * 32
    byte = meta[c // 128, r // 64, lane * 8 + c // 64 % 2 * 4 + c // 8 % 4].long()
    nibble = byte >> 4 * (c // 4 % 2) & 15
    dense = torch.zeros(rows, columns, dtype=torch.float64)
    dense[r, c + (nibble & 3)] += values[:, 0::2].double()
    dense[r, c + (nibble >> 2)] += values[:, 1::2].double()
    return dense


def oracle(values, meta, scales, b, scales_b, bias=None, transpose_out=False):
    a = scaled(unpacked(values, meta)[:, : b.shape[0]], scales)
    out = a @ scaled(b, scales_b)
    out = out.T if transpose_out else out
    return out if bias is None else out + bias.double()


def test_a_product_by_hand():
    a = quantize24(torch.tensor([[0.0, 448, 0, 224]]), torch.tensor([[0b1010]]).byte(), E4M3)
    b = torch.tensor([[448.0, 1], [2, 2], [448, 1], [4, 416]]).to(E4M3)
    scales_b = torch.tensor([[1.0, 0.5]])
    got = scaled_matmul24(*a, b, scales_b, out_dtype=torch.float32)
    assert got.tolist() == [[448 * 2 + 224 * 4, (448 * 2 + 224 * 416) / 2]]
    got = scaled_matmul24(*a, b, scales_b, torch.tensor([5.0]), True)
    assert got.tolist() == [[1800], [47104]]  # 1797 and 47045 in bfloat16


@scalings
@dtypes
@pytest.mark.parametrize("transpose_out", [False, True])
def test_as_accurate_as_float32_of_the_dequantized(transpose_out, dtype, scaling, scaling_b):
    values, meta, scales = packed(67, 300, dtype, scaling)
    b, scales_b = quantized(300, 9, dtype, scaling_b)
    bias = gaussian(1, 67 if transpose_out else 9, seed=2)[0]
    given = values, meta, scales, b, scales_b, bias, transpose_out
    expected = oracle(*given)
    a32, b32 = scaled(unpacked(values, meta), scales).float(), scaled(b, scales_b).float()
    plain = (a32 @ b32).T + bias if transpose_out else a32 @ b32 + bias
    got = scaled_matmul24(*given, torch.float32)
    assert_as_accurate_as_torch(got, plain, expected, floor=1e-7)
    narrow = scaled_matmul24(*given, torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, got.bfloat16()), "rounded once"


@pytest.mark.parametrize("scaling", ["row", "tensor"])
def test_as_accurate_as_pytorchs_scaled_mm_of_one_scale(scaling):
    values, meta, scales = packed(32, 512, scaling="tensor")
    b, scales_b = quantized(512, 16, scaling="tensor")
    a = unpacked(values, meta).to(E4M3)
    scale_b = scales_b if scaling == "tensor" else scales_b.expand(1, 16).contiguous()
    plain = torch.ops.aten._scaled_mm(a, b, scales, scales_b, out_dtype=torch.bfloat16)
    got = scaled_matmul24(values, meta, scales, b, scale_b)
    expected = oracle(values, meta, scales, b, scale_b)
    assert_as_accurate_as_torch(got, plain, expected, floor=1e-7)


def test_whole_numbers_of_any_length_are_summed_exactly():
    ones = torch.full((1, 4096), 127, dtype=torch.int8)
    x = torch.full((2, 8192), 127.0)
    a = quantize24(x, select24(x, "row"), INT8)
    b = torch.cat([ones, ones], dim=1).T
    b[0] = 126
    got = scaled_matmul24(*a, b, torch.ones(1, 1), out_dtype=torch.float32)
    assert got[0, 0].item() == float(torch.tensor(127.0 * (127 * 4095 + 126)))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("tokens", [1, 129, 256])
def test_missing_rows_of_b_are_zero(tokens, scaling):
    x = gaussian(tokens, 8)
    packed_t = quantize_both24(x, select24(x, "transposable"), E4M3, scaling)[3:]
    b, scales_b = quantized(tokens, 3, scaling=scaling)
    got = scaled_matmul24(*packed_t, b, scales_b, out_dtype=torch.float32)
    torch.testing.assert_close(got, oracle(*packed_t, b, scales_b).float())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(0, 8, 3), (4, 8, 0), (4, 0, 3)])
def test_empty_products_are_the_bias(rows, columns, tokens, scaling):
    b, scales_b = quantized(columns, tokens, scaling=scaling)
    bias = torch.arange(float(rows))
    got = scaled_matmul24(*packed(rows, columns, scaling=scaling), b, scales_b, bias, True)
    assert got.shape == (tokens, rows)
    if columns == 0:
        assert torch.equal(got, bias.bfloat16().expand(tokens, -1))


@dtypes
def test_what_is_not_finite_shows_in_its_row_alone(dtype):
    x = gaussian(8, 16)
    x[2, 3], x[5, 6] = float("nan"), float("inf")
    mask = torch.full((8, 2), 0b1100_1100).byte()
    y = gaussian(3, 16, seed=1)
    y[1, 0] = float("-inf")
    a, (b, scales_b) = quantize24(x, mask, dtype), quantize(y, dtype)
    got = scaled_matmul24(*a, b.T, scales_b.T)
    expected = torch.zeros(8, 3, dtype=torch.bool)
    expected[[2, 5]], expected[:, 1] = True, True
    assert torch.equal(got.isnan(), expected)
    assert got.isfinite().logical_not().equal(expected)


def refused(complaint, **changes):
    values, meta, scales = packed(4, 8)
    b, scales_b = quantized(8, 3)
    arguments = {
        "values": values,
        "meta": meta,
        "scales": scales,
        "b": b,
        "scales_b": scales_b,
        "bias": None,
        "transpose_out": False,
        "out_dtype": torch.bfloat16,
        **changes,
    }
    for call in (scaled_matmul24, torch.ops.sparsetrain.scaled_matmul24):
        with pytest.raises(ValueError, match=complaint):
            call(**arguments)


def test_what_it_does_not_take_is_refused_in_one_line():
    refused(r"^values: torch\.bfloat16 is not supported; use", values=torch.ones(4, 4).bfloat16())
    refused(r"^b: torch\.float32 is not supported; use", b=torch.ones(8, 3))
    refused(r"^b: torch\.int8, but values is torch\.float8_e4m3fn", b=torch.ones(8, 3).char())
    refused(r"^b: 4 rows do not fit .* of 8 columns; pass 8", b=torch.ones(4, 3).to(E4M3))
    words = r"^scales: shape \(1, 4\) is none of \(1, 1\), \(4, 1\), \(1, 1\), those of values"
    refused(words, scales=torch.ones(1, 4))
    words = r"^scales_b: shape \(3, 1\) is none of \(1, 1\), \(1, 3\), \(1, 1\), those of b.T"
    refused(words, scales_b=torch.ones(3, 1))
    refused(r"^scales: torch\.float64 should be float32", scales=torch.ones(4, 1).double())
    refused(r"^bias: shape \(4,\) should be \(3,\)", bias=torch.ones(4))
    refused(r"^bias: torch\.float16 should be float32 or out_dtype", bias=torch.ones(3).half())
    refused(r"^out_dtype: torch\.float64 is not supported; use", out_dtype=torch.float64)


def test_operands_on_two_devices_are_refused():
    b, scales_b = quantized(8, 3)
    with pytest.raises(ValueError, match="scales_b: on meta, but values is on cpu"):
        scaled_matmul24(*packed(4, 8), b, scales_b.to("meta"))
    with pytest.raises(ValueError, match="b: on meta, but values is on cpu"):
        scaled_matmul24(*packed(4, 8), b.to("meta"), scales_b)


def test_on_a_gpu_an_op_without_a_kernel_says_so_once():
    class OnGpu:
        is_cuda = True

    scale_checks._tell_of_missing_kernel.cache_clear()
    with pytest.warns(UserWarning, match="^scaled_matmul24 on CUDA tensors runs in plain"):
        scale_checks.check_kernel("scaled_matmul24", OnGpu())  # pyright: ignore
    scale_checks.check_kernel("scaled_matmul24", OnGpu())  # pyright: ignore
    with pytest.warns(UserWarning, match="^scaled_matmul24 by block on CUDA tensors runs in plain"):
        scale_checks.check_kernel("scaled_matmul24", OnGpu(), " by block")  # pyright: ignore
