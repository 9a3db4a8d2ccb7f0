"""The product of 8-bit values on the GPU: whole numbers to the bit, and PyTorch's own as a peer.

Whole numbers of few bits have exact sums, so a value, a nibble or a scale in the wrong place shows,
and where; int8 has no others. The order of the sums of others is the tensor cores'.
"""

from itertools import product
from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, needs_kernels
from matmul_checks import needs_hopper, normal
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference.pack24 import META_ORDER_8BIT, meta24, positions24
from sparsetrain.reference.quantize import SCALINGS, Scaling, dequantize
from sparsetrain.reference.scaled_matmul24 import scaled_matmul24 as reference

pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper]

E4M3, INT8 = torch.float8_e4m3fn, torch.int8
SIZES = [
    (1, 1, 4),
    (63, 7, 60),
    (64, 256, 128),
    (65, 129, 68),
    (256, 256, 132),
    (200, 200, 300),
    (392, 520, 644),
    (300, 257, 192),
    (64, 1000, 1000),
    (513, 130, 4096),
]
"""M, N, K."""
TILES = 3
"""Of 8-bit values: the first of `_matmul24_tiles`."""

dtypes = pytest.mark.parametrize("dtype", [E4M3, INT8], ids=str)
transposes = pytest.mark.parametrize("transpose_out", [False, True], ids=["plain", "transposed"])
results = pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16, torch.float32])


def whole(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = E4M3) -> Tensor:
    """Give whole numbers, in float32: from -4 to 4, of int8 from -127 to 127, both ends often."""
    largest = 4 if dtype == E4M3 else 127
    x = normal(rows, columns, torch.float32, DEVICE, seed)
    return x.mul(largest / 2).round().clamp(-largest, largest)


def packed(x: Tensor, dtype: torch.dtype = E4M3) -> tuple[Tensor, Tensor, Tensor]:
    """Give values and meta of whole numbers as they are, without scales, and the pruned matrix."""
    values, meta, *_ = ops.sparsify24(x.bfloat16(), "row")
    pruned = ops.unpack24(values, meta)
    places = positions24(meta, x.shape[0], x.shape[1] // 4)
    return values.to(dtype), meta24(places, META_ORDER_8BIT), pruned


def powers(n: int) -> Tensor:
    """Give scales that change nothing but exponents."""
    return torch.exp2(torch.arange(n, device=DEVICE) % 3)


def check_whole(
    M: int, N: int, K: int, transpose_out: bool, out_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    """Sums are whole, rounded to float32 once, and once more with the bias."""
    values, meta, pruned = packed(whole(M, K, dtype=dtype), dtype)
    b, scales, scales_b = whole(N, K, 1, dtype), powers(M)[:, None], powers(N)[None]
    if dtype == INT8:
        scales_b = scales_b / 1024  # float16 holds the results
    bias = torch.arange(M if transpose_out else N, device=DEVICE).float() % 7
    expected = (pruned.double() @ b.double().T).float().double() * scales * scales_b
    expected = ((expected.T if transpose_out else expected) + bias).float().to(out_dtype)
    q = b.to(dtype).T
    got = ops.scaled_matmul24(values, meta, scales, q, scales_b, bias, transpose_out, out_dtype)
    assert torch.equal(got, expected), first_difference(got, expected)


def first_difference(got: Tensor, expected: Tensor) -> str:
    wrong = (got != expected).nonzero()
    places = [f"{p}: {got[tuple(p)]}, not {expected[tuple(p)]}" for p in wrong[:5].tolist()]
    return f"{len(wrong)} of {got.numel()} differ: {'; '.join(places)}"


@pytest.mark.parametrize(
    "name", ["scaled_matmul24", "quantize", "narrow24", "quantize_both24", "quantize_across24"]
)
def test_the_op_runs_a_kernel_and_not_the_reference(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsetrain::{name}", "CUDA")


@dtypes
def test_an_identity_gives_back_what_is_packed(dtype):
    for M, K in ((64, 128), (200, 300)):
        values, meta, pruned = packed(whole(M, K, dtype=dtype), dtype)
        one = torch.ones(1, 1, device=DEVICE)
        eye = torch.eye(K, device=DEVICE).to(dtype)
        got = ops.scaled_matmul24(values, meta, one, eye, one, out_dtype=torch.float32)
        assert torch.equal(got, pruned.float()), first_difference(got, pruned.float())


@dtypes
@transposes
@results
def test_whole_numbers_of_every_size_are_exact(transpose_out, out_dtype, dtype):
    for size in SIZES:
        check_whole(*size, transpose_out, out_dtype, dtype)


@dtypes
@transposes
def test_every_config_gives_the_same_whole_numbers(transpose_out, dtype):
    private = torch.ops.sparsetrain
    clusters = ((1, 1), (2, 1), (1, 2), (2, 2))
    try:
        for (M, N, K), tile, (m, n), cut in product(
            ((1000, 768, 1024), (513, 130, 4096)), range(TILES), clusters, (0, 1)
        ):
            row = [2, M, N, K, 0, int(transpose_out), 0, tile, m, n, 8, cut]
            private._matmul24_table(torch.tensor([row]))
            check_whole(M, N, K, transpose_out, torch.bfloat16, dtype)
    finally:
        private._matmul24_table(torch.empty(0, 12, dtype=torch.int64))


def quantized(
    M: int,
    N: int,
    K: int,
    dtype: torch.dtype = E4M3,
    scaling: Scaling = "row",
    scaling_b: Scaling = "row",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give both operands of a product, rows and blocks of many magnitudes."""
    x, y = normal(M, K, torch.float32, DEVICE), normal(N, K, torch.float32, DEVICE, 1)
    x *= torch.exp2(normal(M, 1, torch.float32, DEVICE, 2))
    values, meta, scales = ops.quantize24(x, ops.select24(x, "row"), dtype, scaling)
    q, scales_b = ops.quantize(y, dtype, scaling_b)
    return values, meta, scales, q.T, scales_b.T


def on_cpu(*given: Any) -> Any:
    """The product's definition, on the CPU."""
    moved: list[Any] = [x.cpu() if isinstance(x, Tensor) else x for x in given]
    return reference(*moved)


@pytest.mark.parametrize("K", [768, 4096, 14336])
def test_as_accurate_as_pytorchs_scaled_product_by_row(K):
    values, meta, scales, b, scales_b = quantized(256, 128, K)
    a = ops.unpack24(values, meta)
    plain = torch.ops.aten._scaled_mm(
        a, b, scales, scales_b, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    oracle = dequantize(a, scales).double() @ dequantize(b.T, scales_b.T).double().T
    got = ops.scaled_matmul24(values, meta, scales, b, scales_b)
    assert_as_accurate_as_torch(got, plain, oracle)


@transposes
@results
def test_int8_has_the_bits_of_the_definition_without_a_bias(transpose_out, out_dtype):
    for size in (*SIZES, (130, 72, 14336)):
        given = *quantized(*size, INT8), None, transpose_out, out_dtype
        got, expected = ops.scaled_matmul24(*given).cpu(), on_cpu(*given)
        assert torch.equal(got, expected), first_difference(got, expected)


@transposes
def test_int8_with_a_bias_is_as_accurate_as_the_definition(transpose_out):
    given = quantized(200, 264, 4096, INT8)
    bias = 100 * normal(1, 200 if transpose_out else 264, torch.float32, DEVICE, 3)[0]
    got = ops.scaled_matmul24(*given, bias, transpose_out, torch.float32).cpu()
    values, meta, scales, b, scales_b = (x.cpu() for x in given)
    oracle = ops.unpack24(values, meta).double() * scales @ (b.double() * scales_b)
    oracle = (oracle.T if transpose_out else oracle) + bias.cpu()
    expected = on_cpu(*given, bias, transpose_out, torch.float32)
    assert_as_accurate_as_torch(got, expected, oracle, floor=1e-8)


def test_int8_sums_beyond_24_bits_are_those_of_pytorchs_own_product():
    M, N, K = 128, 72, 14336
    values, meta, pruned = packed(whole(M, K, dtype=INT8).abs(), INT8)
    b = whole(N, K, 1, INT8).abs().to(INT8).T
    one = torch.ones(1, 1, device=DEVICE)
    got = ops.scaled_matmul24(values, meta, one, b, one, out_dtype=torch.float32)
    sums = torch.ops.aten._int_mm(pruned.to(INT8), b)
    assert sums.max() > 2**24
    assert torch.equal(got, sums.float())


@pytest.mark.filterwarnings("ignore:.*of int8 with 262144 columns or more")
def test_sums_of_int8_that_may_not_fit_into_32_bits_are_the_definitions():
    for K in (2**18 - 4, 2**18):
        values = torch.full((1, K // 2), 127, dtype=INT8, device=DEVICE)
        meta = meta24(torch.tensor([0, 1]).expand(1, K // 4, 2), META_ORDER_8BIT).to(DEVICE)
        b = torch.full((8, K), 127, dtype=INT8, device=DEVICE).T
        one = torch.ones(1, 1, device=DEVICE)
        got = ops.scaled_matmul24(values, meta, one, b, one, out_dtype=torch.float32)
        assert (got == float(torch.tensor(127.0 * 127 * (K // 2)))).all()


@dtypes
@transposes
@pytest.mark.parametrize("scaling", ["row", "block"])
def test_many_tiles_give_the_same_bits_a_hundred_times(transpose_out, dtype, scaling):
    given = *quantized(1000, 3001, 4096, dtype, scaling), None, transpose_out
    first = ops.scaled_matmul24(*given)
    assert all(torch.equal(first, ops.scaled_matmul24(*given)) for _ in range(100))


def behind(dtype: torch.dtype, *shape: int) -> Tensor:
    """Memory that must not be read: NaN, or a large number."""
    return torch.full(shape, 127 if dtype == INT8 else float("nan"), device=DEVICE).to(dtype)


@dtypes
@pytest.mark.parametrize("scaling", ["row", "block"])
def test_the_layout_of_operands_does_not_matter(dtype, scaling):
    values, meta, scales, b, scales_b = quantized(65, 72, 200, dtype, scaling, scaling)
    bias = torch.arange(65, device=DEVICE).half()
    given = scales, scales_b, bias, True, torch.float16
    expected = call(values, meta, b, *given)
    odd_b = behind(dtype, 130, 203)[:72, 1:201].copy_(b.T).T
    odd_values = behind(dtype, 65, 103)[:, 2:102].copy_(values)
    apart = torch.zeros(len(scales), 7, device=DEVICE)[:, 1:6:4][:, : scales.shape[1]]
    apart.copy_(scales)
    assert torch.equal(call(values, meta, odd_b, *given), expected)
    assert torch.equal(call(values, meta, b.contiguous(), *given), expected)
    assert torch.equal(call(odd_values, meta, b, *given), expected)
    assert torch.equal(call(values, meta, b, apart, *given[1:]), expected)


def call(values, meta, b, scales, scales_b, bias, transpose_out, out_dtype) -> Tensor:
    return ops.scaled_matmul24(values, meta, scales, b, scales_b, bias, transpose_out, out_dtype)


@dtypes
@pytest.mark.parametrize("scaling", ["row", "block"])
@pytest.mark.parametrize("tokens", [1, 129, 200])
def test_tokens_that_are_missing_are_zero_and_what_lies_behind_b_is_not_read(
    tokens, dtype, scaling
):
    x, y = whole(tokens, 64), whole(72, tokens, 1)
    packed_t = ops.quantize_both24(x, ops.select24(x, "transposable"), dtype, scaling, True)[3:]
    q, scales_b = ops.quantize(y, dtype, scaling, True)
    wide = behind(dtype, 72, 512)[:, :tokens].copy_(q)
    got = ops.scaled_matmul24(*packed_t, wide.T, scales_b.T, out_dtype=torch.float32)
    expected = reference(*packed_t, q.T, scales_b.T, None, False, torch.float32)
    assert torch.equal(got, expected), first_difference(got, expected)


@dtypes
def test_what_is_not_finite_shows_in_its_row_alone(dtype):
    x, y = normal(8, 16, torch.float32, DEVICE), normal(3, 16, torch.float32, DEVICE, 1)
    x[2, 3], x[5, 6], y[1, 0], x[7] = float("nan"), float("inf"), float("-inf"), 0
    mask = torch.full((8, 2), 0b1100_1100, dtype=torch.uint8, device=DEVICE)
    q, scales_b = ops.quantize(y, dtype)
    got = ops.scaled_matmul24(*ops.quantize24(x, mask, dtype), q.T, scales_b.T)
    expected = torch.zeros(8, 3, dtype=torch.bool, device=DEVICE)
    expected[[2, 5]], expected[:, 1] = True, True
    assert torch.equal(got.isnan(), expected)
    assert not got[7, [0, 2]].any()


@dtypes
@transposes
@pytest.mark.parametrize(("scaling", "scaling_b"), list(product(SCALINGS, SCALINGS)))
def test_every_scaling_is_the_definitions(dtype, scaling, scaling_b, transpose_out):
    for M, N, K in ((1, 1, 4), (200, 300, 72), (129, 520, 644), (700, 257, 1000)):
        x, y = whole(M, K), whole(N, K, 1)
        packed = ops.quantize24(x, ops.select24(x, "row"), dtype, scaling, True)
        q, scales_b = ops.quantize(y, dtype, scaling_b, True)
        given = *packed, q.T, scales_b.T, None, transpose_out, torch.float32
        got, expected = ops.scaled_matmul24(*given), reference(*given)
        assert torch.equal(got, expected), first_difference(got, expected)


@dtypes
@transposes
def test_every_config_by_block_gives_the_same_whole_numbers(dtype, transpose_out):
    private = torch.ops.sparsetrain
    M, N, K = 1000, 769, 1156
    scales, scales_b = (
        torch.exp2(torch.arange(n, device=DEVICE) % 3).reshape(-1, -(-K // 128))
        for n in (-(-M // 128) * -(-K // 128), -(-N // 128) * -(-K // 128))
    )
    values, meta, _ = packed(whole(M, K), dtype)
    q, bias = whole(N, K, 1).to(dtype), torch.arange(M if transpose_out else N, device=DEVICE)
    given = values, meta, scales, q.T, scales_b.T, bias.float(), transpose_out, torch.float32
    expected = reference(*given)
    try:
        for (m, n), cut in product(((1, 1), (2, 1), (1, 2), (2, 2)), (0, 1)):
            row = [3, M, N, K, 0, int(transpose_out), 1, 2, m, n, 8, cut]
            private._matmul24_table(torch.tensor([row]))
            got = ops.scaled_matmul24(*given)
            assert torch.equal(got, expected), f"{row}: {first_difference(got, expected)}"
        with pytest.raises(RuntimeError, match="names no config of this library"):
            private._matmul24_table(torch.tensor([[3, M, N, K, 0, 0, 1, 0, 1, 1, 8, 0]]))
    finally:
        private._matmul24_table(torch.empty(0, 12, dtype=torch.int64))


@dtypes
@pytest.mark.parametrize("K", [768, 14336])
def test_by_block_it_is_as_accurate_as_float32_of_the_dequantized(dtype, K):
    given = quantized(256, 136, K, dtype, "block", "block")
    values, meta, scales, b, scales_b = given
    a = dequantize(ops.unpack24(values, meta), scales)
    b = dequantize(b.T, scales_b.T).T
    expected, oracle = a @ b, a.double() @ b.double()
    got = ops.scaled_matmul24(*given, out_dtype=torch.float32)
    # The tensor cores add up 128 of K with about 14 bits; their errors do not add up further.
    assert_as_accurate_as_torch(got, expected, oracle, floor=1e-6 if dtype == INT8 else 2e-4)
    assert torch.equal(ops.scaled_matmul24(*given), got.bfloat16()), "rounded once"


@dtypes
def test_what_is_not_finite_shows_in_its_blocks_row_alone(dtype):
    x, y = normal(300, 260, torch.float32, DEVICE), normal(40, 260, torch.float32, DEVICE, 1)
    x[130, 200] = float("inf")
    mask = ops.select24(x, "row")
    q, scales_b = ops.quantize(y, dtype, "block")
    got = ops.scaled_matmul24(*ops.quantize24(x, mask, dtype, "block"), q.T, scales_b.T)
    assert torch.equal(got.isnan().any(1), torch.arange(300, device=DEVICE) // 128 == 1)
    assert torch.equal(got.isnan().all(1), got.isnan().any(1))


@dtypes
@pytest.mark.parametrize("scaling", ["row", "block"])
def test_opcheck(dtype, scaling):
    bias = torch.ones(65, device=DEVICE)
    given = *quantized(65, 30, 200, dtype, scaling, scaling), bias, True, torch.float16
    # The check of the schema multiplies arguments, and PyTorch multiplies no float8 element-wise.
    utils = ("test_faketensor", "test_aot_dispatch_dynamic", *["test_schema"] * (dtype == INT8))
    op: Any = torch.ops.sparsetrain.scaled_matmul24.default
    torch.library.opcheck(op, given, test_utils=utils)


def test_scales_of_another_matrix_are_refused():
    values, meta, _, b, scales_b = quantized(200, 300, 260)
    words = r"scales: shape \(3, 2\) is none of those of 200 x 260 values by tensor, row and block"
    with pytest.raises((RuntimeError, ValueError), match=words):
        torch.ops.sparsetrain.scaled_matmul24(
            values, meta, torch.ones(3, 2, device=DEVICE), b, scales_b, None, False, torch.bfloat16
        )


@dtypes
@pytest.mark.parametrize("size", [(0, 8, 64), (64, 0, 64), (64, 8, 0)])
def test_empty_products_are_the_bias(size, dtype):
    M, N, K = size
    bias = torch.arange(M, device=DEVICE).float()
    values, meta, scales, b, scales_b = quantized(M, N, K, dtype)
    got = ops.scaled_matmul24(values, meta, scales, b, scales_b, bias, True)
    assert got.shape == (N, M)
    if K == 0:
        assert torch.equal(got, bias.bfloat16().expand(N, -1))
