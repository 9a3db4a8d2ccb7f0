"""The product of e4m3 values on the GPU: whole numbers to the bit, and PyTorch's own as a peer.

Whole numbers of few bits have exact sums, so a value, a nibble or a scale in the wrong place shows,
and where. The order of the sums of others is the tensor cores'.
"""

from itertools import product

import pytest
import torch
from kernel_checks import DEVICE, needs_kernels
from matmul_checks import needs_hopper, normal
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference.pack24 import META_ORDER_8BIT, meta24, positions24
from sparsetrain.reference.quantize import SCALINGS, dequantize
from sparsetrain.reference.scaled_matmul24 import scaled_matmul24 as reference

pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper]

E4M3 = torch.float8_e4m3fn
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

transposes = pytest.mark.parametrize("transpose_out", [False, True], ids=["plain", "transposed"])
results = pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16, torch.float32])


def whole(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Give whole numbers from -4 to 4, in float32."""
    return normal(rows, columns, torch.float32, DEVICE, seed).mul(2).round().clamp(-4, 4)


def packed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give values and meta of whole numbers as they are, without scales, and the pruned matrix."""
    values, meta, *_ = ops.sparsify24(x.bfloat16(), "row")
    pruned = ops.unpack24(values, meta)
    places = positions24(meta, x.shape[0], x.shape[1] // 4)
    return values.to(E4M3), meta24(places, META_ORDER_8BIT), pruned


def powers(n: int) -> Tensor:
    """Give scales that change nothing but exponents."""
    return torch.exp2(torch.arange(n, device=DEVICE) % 3)


def check_whole(M: int, N: int, K: int, transpose_out: bool, out_dtype: torch.dtype) -> None:
    values, meta, pruned = packed(whole(M, K))
    b, scales, scales_b = whole(N, K, 1), powers(M)[:, None], powers(N)[None]
    bias = torch.arange(M if transpose_out else N, device=DEVICE).float() % 7
    expected = pruned.double() @ b.double().T * scales * scales_b
    expected = ((expected.T if transpose_out else expected) + bias).to(out_dtype)
    q = b.to(E4M3).T
    got = ops.scaled_matmul24(values, meta, scales, q, scales_b, bias, transpose_out, out_dtype)
    assert torch.equal(got, expected), first_difference(got, expected)


def first_difference(got: Tensor, expected: Tensor) -> str:
    wrong = (got != expected).nonzero()
    places = [f"{p}: {got[tuple(p)]}, not {expected[tuple(p)]}" for p in wrong[:5].tolist()]
    return f"{len(wrong)} of {got.numel()} differ: {'; '.join(places)}"


@pytest.mark.parametrize("name", ["scaled_matmul24", "quantize", "narrow24", "quantize_both24"])
def test_the_op_runs_a_kernel_and_not_the_reference(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsetrain::{name}", "CUDA")


def test_an_identity_gives_back_what_is_packed():
    for M, K in ((64, 128), (200, 300)):
        values, meta, pruned = packed(whole(M, K))
        one = torch.ones(1, 1, device=DEVICE)
        eye = torch.eye(K, device=DEVICE).to(E4M3)
        got = ops.scaled_matmul24(values, meta, one, eye, one, out_dtype=torch.float32)
        assert torch.equal(got, pruned.float()), first_difference(got, pruned.float())


@transposes
@results
def test_whole_numbers_of_every_size_are_exact(transpose_out, out_dtype):
    for size in SIZES:
        check_whole(*size, transpose_out, out_dtype)


@transposes
def test_every_config_gives_the_same_whole_numbers(transpose_out):
    private = torch.ops.sparsetrain
    clusters = ((1, 1), (2, 1), (1, 2), (2, 2))
    try:
        for (M, N, K), tile, (m, n), cut in product(
            ((1000, 768, 1024), (513, 130, 4096)), range(TILES), clusters, (0, 1)
        ):
            row = [2, M, N, K, 0, int(transpose_out), 0, tile, m, n, 8, cut]
            private._matmul24_table(torch.tensor([row]))
            check_whole(M, N, K, transpose_out, torch.bfloat16)
    finally:
        private._matmul24_table(torch.empty(0, 12, dtype=torch.int64))


def quantized(M: int, N: int, K: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, y = normal(M, K, torch.float32, DEVICE), normal(N, K, torch.float32, DEVICE, 1)
    values, meta, scales = ops.quantize24(x, ops.select24(x, "row"), E4M3)
    q, scales_b = ops.quantize(y, E4M3)
    return values, meta, scales, q.T, scales_b.T


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
def test_many_tiles_give_the_same_bits_a_hundred_times(transpose_out):
    given = *quantized(1000, 3001, 4096), None, transpose_out
    first = ops.scaled_matmul24(*given)
    assert all(torch.equal(first, ops.scaled_matmul24(*given)) for _ in range(100))


def test_the_layout_of_operands_does_not_matter():
    values, meta, scales, b, scales_b = quantized(65, 72, 200)
    bias = torch.arange(65, device=DEVICE).half()
    given = scales, scales_b, bias, True, torch.float16
    expected = call(values, meta, b, *given)
    wide = torch.full((130, 203), float("nan"), device=DEVICE).to(E4M3)
    odd_b = wide[:72, 1:201].copy_(b.T).T
    odd_values = torch.full((65, 103), float("nan"), device=DEVICE).to(E4M3)[:, 2:102]
    odd_values.copy_(values)
    apart = torch.zeros(65, 2, device=DEVICE)[:, :1].copy_(scales)
    assert torch.equal(call(values, meta, odd_b, *given), expected)
    assert torch.equal(call(values, meta, b.contiguous(), *given), expected)
    assert torch.equal(call(odd_values, meta, b, *given), expected)
    assert torch.equal(call(values, meta, b, apart, *given[1:]), expected)


def call(values, meta, b, scales, scales_b, bias, transpose_out, out_dtype) -> Tensor:
    return ops.scaled_matmul24(values, meta, scales, b, scales_b, bias, transpose_out, out_dtype)


@pytest.mark.parametrize("tokens", [1, 129, 200])
def test_tokens_that_are_missing_are_zero_and_what_lies_behind_b_is_not_read(tokens):
    x, y = whole(tokens, 64), whole(72, tokens, 1)
    packed_t = ops.quantize_both24(x, ops.select24(x, "transposable"), E4M3, "row", True)[3:]
    q, scales_b = ops.quantize(y, E4M3, "row", True)
    behind = torch.full((72, 512), float("nan"), device=DEVICE).to(E4M3)[:, :tokens].copy_(q)
    got = ops.scaled_matmul24(*packed_t, behind.T, scales_b.T, out_dtype=torch.float32)
    expected = reference(*packed_t, q.T, scales_b.T, None, False, torch.float32)
    assert torch.equal(got, expected), first_difference(got, expected)


def test_what_is_not_finite_shows_in_its_row_alone():
    x, y = normal(8, 16, torch.float32, DEVICE), normal(3, 16, torch.float32, DEVICE, 1)
    x[2, 3], x[5, 6], y[1, 0], x[7] = float("nan"), float("inf"), float("-inf"), 0
    mask = torch.full((8, 2), 0b1100_1100, dtype=torch.uint8, device=DEVICE)
    q, scales_b = ops.quantize(y, E4M3)
    got = ops.scaled_matmul24(*ops.quantize24(x, mask, E4M3), q.T, scales_b.T)
    expected = torch.zeros(8, 3, dtype=torch.bool, device=DEVICE)
    expected[[2, 5]], expected[:, 1] = True, True
    assert torch.equal(got.isnan(), expected)
    assert not got[7, [0, 2]].any()


@pytest.mark.filterwarnings("ignore:.*runs in plain PyTorch")
@pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_scaling_is_the_definitions(dtype, scaling):
    x, y = whole(200, 300), whole(72, 300, 1)
    packed = ops.quantize24(x, ops.select24(x, "row"), dtype, scaling, True)
    q, scales_b = ops.quantize(y, dtype, scaling, True)
    got = ops.scaled_matmul24(*packed, q.T, scales_b.T, None, False, torch.float32)
    expected = reference(*packed, q.T, scales_b.T, None, False, torch.float32)
    assert torch.equal(got, expected), first_difference(got, expected)


@pytest.mark.parametrize("size", [(0, 8, 64), (64, 0, 64), (64, 8, 0)])
def test_empty_products_are_the_bias(size):
    M, N, K = size
    bias = torch.arange(M, device=DEVICE).float()
    values, meta, scales, b, scales_b = quantized(M, N, K)
    got = ops.scaled_matmul24(values, meta, scales, b, scales_b, bias, True)
    assert got.shape == (N, M)
    if K == 0:
        assert torch.equal(got, bias.bfloat16().expand(N, -1))
