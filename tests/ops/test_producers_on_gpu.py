"""Kernels that write 8-bit rows beside what else they make: the bits of the passes one by one.

What is quantized is compared with the definition, of what the 16-bit kernels give; the rest with
those kernels themselves.
"""

from itertools import product

import pytest
import torch
from kernel_checks import needs_kernels, poisoned
from ops_checks import gaussian
from test_quantize_on_gpu import assert_same_bits, matrix

from sparsetrain import ops
from sparsetrain.ops.squared_relu24_quantize import ONE_MASK
from sparsetrain.reference.gelu import APPROXIMATIONS

pytestmark = [pytest.mark.gpu, needs_kernels]

E4M3 = torch.float8_e4m3fn
HALVES = [torch.bfloat16, torch.float16]
WIDTHS = [(130, 296), (1, 8), (67, 3072), (300, 40), (7, 8192), (40, 5120)]
"""In one pass: less than a warp, some, all threads of a block."""
TWO_PASSES = [(9, 20), (3, 8200), (5, 4100)]
TILES = [(130, 304), (1, 16), (67, 528), (260, 3072), (64, 4096), (1000, 1280)]
"""In one pass: clusters of one to sixteen blocks, partial tiles, rows and columns."""
WIDER_TILES = [(1, 4112), (20, 4624), (33, 5120), (100, 8192), (300, 6160)]
"""The same of tiles of 32 x 512: of nine to sixteen blocks."""
OTHER_TILES = [(70, 140), (130, 8208), (0, 16)]
ALL_TILES = [*TILES, *WIDER_TILES, *OTHER_TILES]

halves = pytest.mark.parametrize("source", HALVES, ids=str)


def on_cuda(rows, columns, source, seed=0):
    x = matrix(rows, columns, source)
    return (x if not seed else x.flip(0)).cuda()


def quantized(x, power_of_two=False, dtype=E4M3):
    return ops.quantize(x.cpu(), dtype, "row", power_of_two)


def assert_same(got, expected, *given):
    got, expected = ([t.cpu().float() for t in each] for each in (got, expected))
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        same = (one == other) | (one.isnan() & other.isnan())
        assert same.all(), f"result {i} of {given}: {(~same).sum()} of {same.numel()} differ"


def assert_sums_agree(sums, others, magnitudes):
    finite = others.isfinite() & magnitudes.isfinite()
    assert torch.equal(others.isfinite(), sums.isfinite())
    assert ((sums - others).abs()[finite] <= 1e-5 * magnitudes[finite] + 1e-30).all()


@halves
@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_gelu_and_its_gradient_quantize_what_they_give(source, approximate):
    for (rows, columns), power_of_two in product((*WIDTHS, *TWO_PASSES), (False, True)):
        z, grad_h = on_cuda(rows, columns, source), on_cuda(rows, columns, source, 1)
        given = approximate, E4M3, power_of_two
        with poisoned():
            forward = ops.gelu_quantize(z, *given)
            grad_z, h, sums, *backward = ops.gelu_backward_quantize(grad_h, z, *given)
        plain_z, plain_h, plain_sums = ops.gelu_backward(grad_h, z, approximate)
        assert_same((grad_z, h), (plain_z, plain_h), rows, columns)
        assert_same_bits(forward, quantized(plain_h, power_of_two), rows, columns)
        in_int8 = ops.gelu_quantize(z, approximate, torch.int8, power_of_two)
        assert_same_bits(in_int8, quantized(plain_h, power_of_two, torch.int8), rows, columns)
        assert_same_bits(backward, quantized(plain_z, power_of_two), rows, columns)
        assert_sums_agree(sums, plain_sums, plain_z.float().abs().sum(0))


def test_gelu_in_float32_and_its_gradient_in_int8_take_two_passes():
    z, grad_h = on_cuda(9, 40, torch.float32), on_cuda(9, 40, torch.float32, 1)
    forward = ops.gelu_quantize(z, "none", E4M3)
    assert_same_bits(forward, quantized(ops.gelu(z)))
    *_, q, scales = ops.gelu_backward_quantize(grad_h.half(), z.half(), "tanh", torch.int8)
    grad_z, *_ = ops.gelu_backward(grad_h.half(), z.half(), "tanh")
    assert_same_bits((q, scales), quantized(grad_z, dtype=torch.int8))


@halves
@pytest.mark.parametrize("rule", [*ONE_MASK, "row", "greedy"])
def test_squared_relu_is_the_definition(source, rule):
    for (rows, columns), power_of_two in product(ALL_TILES, (False, True)):
        z = matrix(rows, columns, source).clamp(-200, 200)
        with poisoned():
            got = ops.squared_relu24_quantize(z.cuda(), rule, E4M3, power_of_two)
        expected = ops.squared_relu24_quantize(z, rule, E4M3, power_of_two)
        assert_same_bits(got[:3], expected[:3], rows, columns)
        assert_same(got[3:], expected[3:], rows, columns)


@halves
@pytest.mark.parametrize("rule", ONE_MASK)
def test_the_gradient_of_squared_relu_from_its_columns_is_that_from_its_rows(source, rule):
    for (rows, columns), power_of_two in product(ALL_TILES, (False, True)):
        z = matrix(rows, columns, source).clamp(-200, 200).cuda()
        grad_h = on_cuda(rows, columns, source, 1)
        _, meta, _, h_t, meta_t = ops.squared_relu24_quantize(z, rule, E4M3)
        with poisoned():
            got = ops.squared_relu24_backward_quantize(
                grad_h, meta, h_t, meta_t, E4M3, power_of_two
            )
        packed = ops.squared_relu24(z, rule)
        values, values_t, sums = ops.squared_relu24_backward(grad_h, *packed, rule)
        in_one_pass = columns % 16 == 0 and columns <= 8192 and rows > 0
        if not in_one_pass:  # in plain PyTorch, whose square root is another
            assert got[0].shape == values.shape
            continue
        rows8, _, scales = ops.narrow24(values.cpu(), packed[1].cpu(), E4M3, power_of_two)
        assert_same_bits(got[:2], (rows8, scales), rows, columns)
        assert_same(got[2:3], (values_t,), rows, columns)
        assert_sums_agree(got[3], sums, values_t.float().abs().sum(1))


@pytest.mark.parametrize(("rows", "columns"), [(25216, 4096), (16448, 5120)])
def test_large_ones_are_the_passes_one_by_one_and_repeat(rows, columns):
    generator = torch.Generator("cuda").manual_seed(0)
    z, grad_h = (
        torch.randn(rows, columns, generator=generator, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )

    def bytes_of(*tensors):
        return [t.view(torch.uint8) for t in tensors]

    h = ops.gelu(z)
    packed = ops.squared_relu24(z)
    narrow = ops.narrow24(packed[0], packed[1], E4M3)
    expected = ops.quantize(h, E4M3), (*narrow, *packed[2:])
    again = None
    for _ in range(20):
        forward = ops.gelu_quantize(z, "none", E4M3)
        relu = ops.squared_relu24_quantize(z, "transposable", E4M3)
        for one, other in zip((forward, relu), expected, strict=True):
            assert all(map(torch.equal, bytes_of(*one), bytes_of(*other)))
        results = (
            *ops.gelu_backward_quantize(grad_h, z, "none", E4M3),
            *ops.squared_relu24_backward_quantize(grad_h, relu[1], *relu[3:], E4M3),
        )
        again = results if again is None else again
        assert all(map(torch.equal, bytes_of(*results), bytes_of(*again)))


def test_a_cuda_graph_replays_them():
    x = gaussian(256, 512, torch.bfloat16).cuda()
    mask = ops.select24(x, "transposable")

    def run():
        relu = ops.squared_relu24_quantize(x, "transposable", E4M3)
        return [
            *ops.quantize_both24(x, mask, E4M3),
            *ops.quantize_both24(x, mask, E4M3, "block"),
            *ops.quantize_across24(x, mask, E4M3, False),
            *ops.quantize_across24(x, mask, E4M3, True),
            *ops.gelu_quantize(x, "none", E4M3),
            *ops.gelu_backward_quantize(x, x, "none", E4M3),
            *relu,
            *ops.squared_relu24_backward_quantize(x, relu[1], *relu[3:], E4M3),
        ]

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    x.mul_(-1.5)
    for _ in range(3):
        graph.replay()
        for one, other in zip(captured, run(), strict=True):
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
