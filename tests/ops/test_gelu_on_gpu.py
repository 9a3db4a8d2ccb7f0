"""The kernels of GELU: values to one step of float64's, sums to the accuracy of PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import (
    DEVICE,
    KINDS,
    assert_same,
    assert_within_one_step,
    matrix,
    needs_kernels,
    poisoned,
)
from ops_checks import assert_as_accurate_as_torch
from test_gelu import exactly
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference.gelu import APPROXIMATIONS, Approximate
from sparsetrain.reference.gelu_backward import gelu_backward as reference

pytestmark = [pytest.mark.gpu, needs_kernels]

SIZES = [(1, 1), (5, 3), (16, 16), (37, 132), (130, 264), (64, 65), (1000, 1288), (9001, 2052)]
LARGE = [(25216, 4096), (30, 140008), (50432, 8)]
HALVES = [torch.bfloat16, torch.float16]

sizes = pytest.mark.parametrize(("rows", "columns"), SIZES)
dtypes = pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)
approximations = pytest.mark.parametrize("approximate", APPROXIMATIONS)


def every_number(dtype: torch.dtype) -> Tensor:
    """Give all finite numbers of a 16-bit dtype from -20 to 20, without subnormal results."""
    x = torch.arange(-(2**15), 2**15, device=DEVICE).to(torch.int16).view(dtype)
    x = x[x.abs() <= 20]
    return x[x.double().abs() > 1e-30][None]


def slope(z: Tensor, approximate: Approximate) -> Tensor:
    """Give gelu'(z) in float64; its digits far on the left are those that erfc has."""
    with torch.enable_grad():
        z = z.double().requires_grad_()
        (out,) = torch.autograd.grad(exactly(z, approximate).sum(), z)
    return out


def check(grad_h: Tensor, z: Tensor, approximate: Approximate) -> None:
    """Hold both kernels to float64, all they return, in poisoned memory."""
    with poisoned():
        h = ops.gelu(z, approximate)
        grad_z, h_again, sums = ops.gelu_backward(grad_h, z, approximate)
    assert_same(h, h_again)
    torch_h = F.gelu(z, approximate=approximate)
    torch_grad = torch.ops.aten.gelu_backward(grad_h, z, approximate=approximate)
    wide_grad, _, exact_sums = reference(grad_h.double(), z.double(), approximate)
    _, _, torch_sums = reference(grad_h.float(), z.float(), approximate)
    assert grad_z.is_contiguous()
    assert h.is_contiguous()
    assert grad_z.dtype == h.dtype == z.dtype
    assert_as_accurate_as_torch(h, torch_h, exactly(z, approximate))
    assert_as_accurate_as_torch(grad_z, torch_grad, wide_grad)
    assert_as_accurate_as_torch(sums, torch_sums, exact_sums)


@pytest.mark.parametrize("name", ["gelu", "gelu_backward"])
def test_the_op_runs_a_kernel_and_not_the_reference(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsetrain::{name}", "CUDA")


@sizes
@dtypes
@approximations
def test_values_gradients_and_sums(rows, columns, dtype, approximate):
    z, grad_h = (matrix(rows, columns, dtype, seed=seed) for seed in (0, 1))
    check(grad_h, 2 * z, approximate)


@pytest.mark.parametrize(("rows", "columns"), LARGE)
def test_large_matrices(rows, columns):
    z, grad_h = (matrix(rows, columns, torch.bfloat16, seed=seed) for seed in (0, 1))
    check(grad_h, z, "none")


@halves
@approximations
def test_every_16_bit_number_gives_the_nearest_or_one_beside_it(approximate, dtype):
    z = every_number(dtype)
    exact = exactly(z, approximate)
    seen = exact.abs() > 1e-37  # what float32 holds without subnormals
    got = ops.gelu(z, approximate)
    assert_within_one_step(got[seen], exact[seen].to(dtype))
    assert (got[~seen].abs() <= 1e-37).all()


@halves
@approximations
def test_the_slope_of_every_16_bit_number_is_exact_to_a_hundred_thousandth(approximate, dtype):
    z = every_number(dtype)
    exact = slope(z, approximate)
    # As the only row: column_sums are then the gradients, not rounded to 16 bits.
    grad_z, _, sums = ops.gelu_backward(torch.ones_like(z), z, approximate)
    assert (sums - exact[0]).abs().max() < 1e-5
    largest = (exact.to(dtype).double() - exact).abs() + 1e-5
    assert ((grad_z.double() - exact).abs() <= largest).all()


@dtypes
@approximations
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_or_huge_is_what_pytorch_gives(kind, approximate, dtype):
    z = matrix(48, 264, dtype, kind)
    if kind == "huge":
        z = z[z.abs() < 1e18][None]  # beyond, PyTorch's intermediate results overflow
    for grad_h in (torch.ones_like(z), matrix(*z.shape, dtype, seed=1)):
        grad_z, h, sums = ops.gelu_backward(grad_h, z, approximate)
        torch_h = F.gelu(z, approximate=approximate)
        torch_grad = torch.ops.aten.gelu_backward(grad_h, z, approximate=approximate)
        for got, theirs in ((h, torch_h), (grad_z, torch_grad)):
            assert torch.equal(got.isnan(), theirs.isnan())
            assert torch.equal(got.isinf(), theirs.isinf())
        assert_same(h, ops.gelu(z, approximate))
        nan = torch_grad.isnan().any(0)
        assert sums[nan].isnan().all()
        assert sums[~nan & torch_grad.isfinite().all(0)].isfinite().all()


@dtypes
def test_strides_and_offsets_change_no_bit_of_a_gradient(dtype):
    z, grad_h = (matrix(130, 264, dtype, seed=seed) for seed in (0, 1))
    expected = ops.gelu_backward(grad_h, z)

    def unaligned(x: Tensor) -> Tensor:
        buffer = torch.full((130, 267), float("nan"), dtype=dtype, device=DEVICE)
        buffer[:, 1:265] = x
        return buffer[:, 1:265]

    views = [lambda x: x.T.contiguous().T, lambda x: torch.cat([x, x], 1)[:, :264], unaligned]
    for first in (*views, lambda x: x):
        for second in views:
            grad_z, h, sums = ops.gelu_backward(first(grad_h), second(z))
            assert_same(grad_z, expected[0])
            assert_same(h, expected[1])
            torch.testing.assert_close(sums, expected[2])
            assert_same(ops.gelu(second(z)), expected[1])


def test_rows_that_are_one_row_repeated_are_read_as_they_are():
    row = matrix(1, 264, torch.bfloat16)
    grad_h = row.expand(100, 264)
    z = matrix(100, 264, torch.bfloat16, seed=1)
    got = ops.gelu_backward(grad_h, z)
    for one, other in zip(got, ops.gelu_backward(grad_h.contiguous(), z), strict=True):
        assert_same(one, other)


@dtypes
@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (4, 0), (0, 0)])
def test_nothing_gives_nothing_and_sums_of_zero(rows, columns, dtype):
    z = torch.empty(rows, columns, dtype=dtype, device=DEVICE)
    with poisoned():
        grad_z, h, sums = ops.gelu_backward(z, z)
    assert grad_z.shape == h.shape == ops.gelu(z).shape == (rows, columns)
    assert sums.tolist() == [0] * columns


@dtypes
@pytest.mark.parametrize("columns", [1288, 1285])
def test_twenty_calls_give_the_same_bits(columns, dtype):
    z, grad_h = (matrix(2500, columns, dtype, seed=seed) for seed in (0, 1))
    first = ops.gelu_backward(grad_h, z)
    for _ in range(20):
        with poisoned():
            again = ops.gelu_backward(grad_h, z)
        for one, other in zip(again, first, strict=True):
            assert_same(one, other)


def test_a_captured_call_replays_on_what_its_inputs_hold_then():
    inputs = [[matrix(197, 1288, torch.bfloat16, seed=2 * n + m) for m in (0, 1)] for n in (0, 1)]
    expected = [ops.gelu_backward(grad_h, z) for grad_h, z in inputs]
    held = [x.clone() for x in inputs[0]]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.gelu_backward(held[0], held[1])
    for pair, results in zip(inputs, expected, strict=True):
        for x, new in zip(held, pair, strict=True):
            x.copy_(new)
        graph.replay()
        for one, other in zip(captured, results, strict=True):
            assert_same(one, other)


def test_a_matrix_of_more_than_two_to_the_31_values():
    rows, columns = 2**19 + 5, 4104
    z = torch.zeros(rows, columns, dtype=torch.bfloat16, device=DEVICE)
    tail = matrix(64, columns, torch.bfloat16)
    z[-64:] = tail
    grad_z, h, sums = ops.gelu_backward(z, z)
    assert not grad_z[:-64].any()
    assert not h[:-64].any()
    expected = ops.gelu_backward(tail, tail)
    assert_same(grad_z[-64:], expected[0])
    assert_same(h[-64:], expected[1])
    torch.testing.assert_close(sums, expected[2])
    assert_same(ops.gelu(z)[-64:], expected[1])


def test_the_kernel_complains_of_what_does_not_fit():
    z = matrix(8, 16, torch.bfloat16)
    for call in (ops.gelu_backward, torch.ops.sparsetrain.gelu_backward):
        with pytest.raises((ValueError, RuntimeError), match=r"shape \(8, 16\)"):
            call(z[:, :8], z)
        with pytest.raises((ValueError, RuntimeError), match=r"z|grad_h"):
            call(z.float(), z)
    for call in (ops.gelu, torch.ops.sparsetrain.gelu):
        with pytest.raises((ValueError, RuntimeError), match="approximate: 'erf' is unknown"):
            call(z, "erf")  # pyright: ignore[reportArgumentType]
        with pytest.raises((ValueError, RuntimeError), match="has no CUDA kernel"):
            call(z.double())
