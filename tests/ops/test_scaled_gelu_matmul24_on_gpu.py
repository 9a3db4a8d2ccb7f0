"""scaled_gelu_matmul24 on the GPU, against its definition: every tile, tails, what is not finite.

Sums of whole numbers are exact. GELU is in half with `tanh.approx`: a value may be off by what the
op says, and is then rounded to 8 bits, so few become another number.
"""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE, needs_kernels
from matmul_checks import needs_hopper, normal

from sparsetrain import ops
from sparsetrain.reference.pack24 import META_ORDER_8BIT, meta24, positions24
from sparsetrain.reference.scaled_gelu_matmul24 import scaled_gelu_matmul24 as reference
from sparsetrain.reference.scaled_matmul24 import scaled_matmul24

pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper]

E4M3 = torch.float8_e4m3fn
SIZES = [(16, 1, 4), (64, 7, 60), (128, 256, 128), (80, 129, 68), (208, 200, 300), (400, 521, 644)]
"""M, N, K."""


def operands(M: int, N: int, K: int) -> list[Any]:
    """Whole numbers whose product is a few units, with scales of powers of two; the arguments of
    the op but for `approximate`."""
    w, x = (normal(n, K, torch.float32, DEVICE, n).round().clamp(-4, 4) for n in (M, N))
    values, meta, *_ = ops.sparsify24(w.bfloat16(), "row")
    meta = meta24(positions24(meta, M, K // 4), META_ORDER_8BIT)
    scales = torch.exp2(-(torch.arange(M, device=DEVICE) % 3) - 3.0)[:, None]
    scales_b = torch.exp2(-(torch.arange(N, device=DEVICE) % 4) - 1.0)[None]
    bias = torch.arange(M, device=DEVICE).float() % 5 - 2
    factors_out = torch.exp2(torch.arange(N, device=DEVICE) % 5 + 2.0)[:, None]
    return [values.to(E4M3), meta, scales, x.to(E4M3).T, scales_b, bias, factors_out]


def call(given: list[Any], approximate: Any = "none", op: Any = ops.scaled_gelu_matmul24) -> Any:
    return op(*given[:-1], approximate, given[-1]).float()


def check(given: list[Any], approximate: str = "none") -> None:
    got, expected = call(given, approximate), call(given, approximate, reference)
    scales = given[-1].reciprocal()
    product: Any = scaled_matmul24
    z = product(*given[:-1], True, torch.float32).double()
    h = F.gelu(z, approximate=approximate)
    error, best = (got * scales - h).abs(), (expected * scales - h).abs()
    rounding = torch.maximum(h.abs() / 16, scales * 2**-10)
    held = expected.abs() < 448  # by the scale
    assert (error <= rounding + z.abs() / 2048 + h.abs() / 1024)[held].all()
    assert torch.equal(got[~held], expected[~held])
    assert error[held].square().sum() <= 1.02 * best[held].square().sum()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_every_size_is_the_definitions(approximate):
    for size in SIZES:
        check(operands(*size), approximate)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_every_config_is_the_definitions(approximate):
    private = torch.ops.sparsetrain
    try:
        for (M, N, K), tile, (m, n), cut in product(
            ((1008, 769, 1024), (528, 130, 4096)),
            (0, 2),  # for 1 the kernel takes 2
            ((1, 1), (2, 1), (1, 2), (2, 2)),
            (0, 1),
        ):
            private._matmul24_table(torch.tensor([[2, M, N, K, 0, 1, 0, tile, m, n, 8, cut]]))
            check(operands(M, N, K), approximate)
    finally:
        private._matmul24_table(torch.empty(0, 12, dtype=torch.int64))


def test_one_scale_for_all_and_no_bias():
    values, meta, scales, b, scales_b, _, factors_out = operands(128, 100, 256)
    check([values, meta, scales[:1], b, scales_b[:, :1], None, factors_out])


def test_what_is_not_finite_shows_in_its_row_alone():
    given = operands(64, 9, 64)
    given[4][0, 2], given[6][5] = float("nan"), float("nan")
    expected = torch.tensor([False, False, True, False, False, True, False, False, False])
    assert torch.equal(call(given).isnan(), expected.to(DEVICE)[:, None].expand(9, 64))


def test_more_than_the_scale_holds_is_the_largest_number():
    given = operands(64, 9, 64)
    given[6] *= 2**8
    assert call(given).max() == 448
    check(given)


@pytest.mark.parametrize("size", [(0, 8, 64), (64, 0, 64), (64, 8, 0)])
def test_empty_products_are_gelu_of_the_bias(size):
    given = operands(64, 8, 64)
    M, N, K = size
    values, meta, scales, b, scales_b, bias, factors = given
    given = [values[:M, : K // 2], meta[: -(-K // 128), : -(-M // 64)], scales[:M], b[:K, :N]]
    given += [scales_b[:, :N], bias[:M], factors[:N]]
    assert torch.equal(call(given), call(given, "none", reference))


def test_the_layout_of_operands_does_not_matter():
    values, meta, scales, b, scales_b, bias, factors = operands(208, 129, 256)
    expected = call([values, meta, scales, b, scales_b, bias, factors])
    odd = torch.empty(b.numel() + 1, dtype=torch.uint8, device=DEVICE)[1:].view(E4M3)
    odd = odd.view(b.shape[1], b.shape[0]).copy_(b.T).T
    between = torch.empty(b.shape[0], 2 * b.shape[1], dtype=torch.uint8, device=DEVICE)
    between[:, ::2] = b.view(torch.uint8)
    for other in (b.contiguous(), odd, between.view(E4M3)[:, ::2]):
        found = call([values, meta, scales, other, scales_b, bias, factors])
        assert torch.equal(found, expected)
    apart = [torch.stack([t, t], 1)[:, 0] for t in (scales, bias, factors)]
    found = call([values, meta, apart[0], b, scales_b, apart[1], apart[2]])
    assert torch.equal(found, expected)


def test_a_hundred_times_it_is_the_same():
    given = operands(1008, 3001, 4096)
    first = call(given)
    assert all(torch.equal(first, call(given)) for _ in range(100))


@pytest.mark.filterwarnings("ignore:.*of rows that are no multiple of 16")
@pytest.mark.filterwarnings("ignore:.*of scales by block")
def test_what_the_kernel_does_not_take_is_the_definitions():
    given = operands(72, 9, 64)
    assert torch.equal(call(given), call(given, "none", reference))
    for rows, columns in ((64, 256), (256, 128)):  # the latter's scales are a column too
        x = normal(rows, columns, torch.float32, DEVICE)
        q, scales_q = ops.quantize(normal(9, columns, torch.float32, DEVICE, 1), E4M3)
        by_block = ops.quantize24(x, ops.select24(x, "row"), E4M3, "block")
        given = [*by_block, q.T, scales_q.T, None, given[6]]
        assert torch.equal(call(given, "tanh"), call(given, "tanh", reference))
