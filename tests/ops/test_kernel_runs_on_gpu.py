"""CUDA kernels over and over, on streams, in CUDA graphs, compiled, on matrices beyond 2^31."""

import gc
from collections.abc import Callable

import pytest
import torch
from kernel_checks import (
    DEVICE,
    REFERENCE,
    arguments,
    assert_same,
    assert_within_one_step,
    call,
    check_gradient,
    leaves,
    matrix,
    needs_kernels,
    poisoned,
    rows_of,
)
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference import mvue24, random24
from sparsetrain.reference.philox import philox4x32

pytestmark = [pytest.mark.gpu, needs_kernels]

CALLS = [
    *((name, "transposable") for name in REFERENCE),
    ("sparsify24", "row"),
    ("squared_relu24_backward", "row"),
]
calls = pytest.mark.parametrize(("name", "rule"), CALLS)


def assert_all_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other)


def wipe(tensors: tuple[Tensor, ...]) -> None:
    for x in tensors:
        x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@calls
def test_twenty_calls_give_the_same_bits(name, rule, dtype):
    given = arguments(name, matrix(2500, 1288, dtype), rule)
    first = call(name, *given)
    for _ in range(20):
        with poisoned():
            again = call(name, *given)
        assert_all_same(again, first)


def sums_and_narrow(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Give what CALLS leave out: column sums, and a masked matrix in another dtype."""
    return ops.column_sums(x), ops.mask24(x, mask, 1.0, 0.3, torch.bfloat16)


@pytest.mark.parametrize("columns", [1288, 1284])
def test_twenty_sums_and_narrow_matrices_are_the_same_bits(columns):
    x = matrix(2500, columns, torch.float32)
    mask = ops.select24(x, "row")
    first = sums_and_narrow(x, mask)
    for _ in range(20):
        with poisoned():
            again = sums_and_narrow(x, mask)
        assert_all_same(again, first)


# CUDA graphs


def test_captured_sums_and_narrow_matrices_are_those_of_what_x_holds_then():
    inputs = [matrix(1970, 1288, torch.float32, seed=seed) for seed in (0, 1)]
    mask = ops.select24(inputs[0], "row")
    expected = [sums_and_narrow(x, mask) for x in inputs]
    x = inputs[0].clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sums_and_narrow(x, mask)
    for held, results in zip(inputs, expected, strict=True):
        x.copy_(held)
        for _ in range(2):
            wipe(captured)
            graph.replay()
            assert_all_same(captured, results)


@calls
def test_a_captured_call_replays_on_what_its_inputs_hold_then(name, rule):
    given = arguments(name, matrix(197, 1288, torch.bfloat16), rule)
    others = arguments(name, matrix(197, 1288, torch.bfloat16, seed=1), rule)
    call(name, *given)  # loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(name, *given)
    for inputs in (given, others):
        expected = call(name, *(x.clone() if isinstance(x, Tensor) else x for x in inputs))
        for held, new in zip(given, inputs, strict=True):
            if isinstance(held, Tensor) and held is not new:
                held.copy_(new)
        for _ in range(2):
            wipe(captured)
            graph.replay()
            assert_all_same(captured, expected)


@pytest.mark.parametrize("name", ["mvue24", "random24"])
def test_a_captured_sample_takes_the_seed_of_the_replay(name):
    *rest, seed = arguments(name, matrix(197, 1288, torch.bfloat16))
    samples = [call(name, *rest, torch.tensor([n], device=DEVICE)) for n in (11, 12)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(name, *rest, seed)
    for number, expected in zip((11, 12), samples, strict=True):
        seed.fill_(number)
        graph.replay()
        assert_all_same(captured, expected)
    assert not torch.equal(samples[0][-1], samples[1][-1])


def test_two_streams_at_once_give_what_one_gives():
    inputs = [
        {name: arguments(name, matrix(4096, 1288, torch.bfloat16, seed=n)) for name in REFERENCE}
        for n in (0, 1)
    ]
    expected = [{name: call(name, *given) for name, given in one.items()} for one in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(10):
        for name in REFERENCE:
            for n, stream in enumerate(streams):
                with torch.cuda.stream(stream):
                    results.append((n, name, call(name, *inputs[n][name])))
    torch.cuda.synchronize()
    for n, name, got in results:
        assert_all_same(got, expected[n][name])


def test_sums_on_two_streams_at_once_are_those_of_one():
    inputs = [matrix(4096, 1288, torch.bfloat16, seed=seed) for seed in (0, 1)]
    expected = [ops.column_sums(x) for x in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(50):
        for n, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results.append((n, ops.column_sums(inputs[n])))
    torch.cuda.synchronize()
    for n, got in results:
        assert_same(got, expected[n])


# torch.compile


def several(x: Tensor, grad_h: Tensor, previous: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
    *packed, mask, flips = ops.sparsify24(x, "transposable", torch.bfloat16, previous)
    applied = ops.apply24(x, mask, torch.bfloat16)
    h = ops.squared_relu24(x, "row")
    grads = ops.squared_relu24_backward(grad_h, *h, rule="row")
    sample = ops.mvue24(grad_h, seed)
    dropped = ops.mask24(x, ops.random24(x.shape[0], x.shape[1], seed), 2.0)
    masks = mask, flips, ops.flips24(ops.select24(x, "row"), previous)
    dropped = dropped, *sums_and_narrow(x, mask)
    return (*packed, *applied, *h, *grads, *sample, *dropped, *masks)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_function_of_several_ops_compiles_whole(backend):
    x, grad_h = (matrix(197, 264, torch.float32, seed=seed) for seed in (0, 1))
    seed = torch.tensor([3], device=DEVICE)
    given = x, grad_h, ops.select24(grad_h, "transposable"), seed
    torch.compiler.reset()
    compiled = torch.compile(several, fullgraph=True, backend=backend)
    assert_all_same(compiled(*given), several(*given))


# More than 2^31 elements


@pytest.fixture
def beyond():
    """A matrix of more than 2^31 elements; the memory of the tests goes back afterwards."""
    rows, columns = 262400, 8192
    assert rows * columns > 2**31 + 2**20
    x = torch.empty(rows, columns, dtype=torch.bfloat16, device=DEVICE)
    yield x.normal_(generator=torch.Generator(DEVICE).manual_seed(0))
    del x
    gc.collect()
    torch.cuda.empty_cache()


def assert_ends_same(name: str, x: Tensor, packed: tuple[Tensor, ...], rest: tuple) -> None:
    """Compare the first and the last 256 rows; rest: what follows x, cut along."""
    for start in (0, x.shape[0] - 256):
        rows = slice(start, start + 256)
        cut = [a[rows] if isinstance(a, Tensor) else a for a in rest]
        expected = leaves(REFERENCE[name](x[rows], *cut))
        assert_all_same(rows_of(packed, rows.start, rows.stop), expected[:4])


def test_more_than_2_to_the_31_elements(beyond):
    *packed, mask, flips = ops.sparsify24(beyond)
    assert_ends_same("sparsify24", beyond, tuple(packed), ("transposable", None, None))
    assert_all_same((mask[-256:],), leaves(REFERENCE["select24"](beyond[-256:], "transposable")))
    assert flips == 0
    sums = ops.column_sums(beyond)
    for columns in (slice(0, 64), slice(-64, None)):
        # Each a float32 of 262400 terms.
        exact = beyond[:, columns].double().sum(0)
        torch.testing.assert_close(sums[columns].double(), exact, rtol=1e-5, atol=0.01)
    again = ops.apply24(beyond, mask)
    assert_all_same(again, tuple(packed))
    del packed, again
    previous = mask.clone()
    previous[-1] ^= 255
    assert ops.flips24(mask, previous) == beyond.shape[1]
    assert ops.sparsify24(beyond, "transposable", None, previous)[-1] == beyond.shape[1]
    masked = ops.mask24(beyond, mask, 1.0, 0.5)
    for rows in (slice(0, 256), slice(-256, None)):
        assert_same(masked[rows], REFERENCE["mask24"](beyond[rows], mask[rows], 1.0, 0.5))


def test_an_activation_and_a_mask_of_more_than_2_to_the_31_elements(beyond):
    packed = ops.squared_relu24(beyond)
    assert_ends_same("squared_relu24", beyond, packed, ("transposable",))
    del packed
    for rule in ("row", "greedy"):
        mask = ops.select24(beyond, rule)
        for rows in (slice(0, 256), slice(-256, None)):
            assert_same(mask[rows], REFERENCE["select24"](beyond[rows], rule))
    shrunk = ops.soft_threshold24(beyond, torch.tensor([1.5], device=DEVICE))
    expected = REFERENCE["soft_threshold24"](beyond[-256:], torch.tensor([1.5], device=DEVICE))
    assert_same(shrunk[-256:], expected)


def words_from(first: int) -> Callable[[Tensor, int, int, int], Tensor]:
    """Give random_words that starts at row `first`, for the reference of the last rows."""

    def random_words(seed: Tensor, rows: int, columns: int, stream: int) -> Tensor:
        block = torch.arange((columns + 3) // 4, device=DEVICE)[None, :]
        row = torch.arange(first, first + rows, device=DEVICE)[:, None]
        zero = torch.zeros_like(block)
        key = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
        words = philox4x32((block, row, zero, zero + stream), key)
        return torch.stack(words, dim=-1).flatten(1)[:, :columns]

    return random_words


def test_samples_of_more_than_2_to_the_31_elements(beyond, monkeypatch):
    seed = torch.tensor([2**40 + 7], device=DEVICE)
    rows, columns = beyond.shape
    values_t, meta_t = ops.mvue24(beyond, seed)
    mask = ops.random24(rows, columns, seed)
    for start in (0, rows - 256):
        stop = start + 256
        for module in (mvue24, random24):
            monkeypatch.setattr(module, "random_words", words_from(start // 4))
        expected = REFERENCE["mvue24"](beyond[start:stop], seed)
        got = values_t[:, start // 2 : stop // 2], meta_t[start // 64 : stop // 64]
        assert_all_same(got, expected)
        assert_same(mask[start:stop], REFERENCE["random24"](256, columns, seed))


def test_a_gradient_of_more_than_2_to_the_31_elements(beyond):
    packed = ops.squared_relu24(beyond)
    values, values_t, sums = ops.squared_relu24_backward(beyond, *packed, "transposable")
    for start in (0, beyond.shape[0] - 256):
        stop = start + 256
        h = rows_of(packed, start, stop)
        expected = REFERENCE["squared_relu24_backward"](beyond[start:stop], *h, "transposable")
        got = rows_of((values, packed[1], values_t, packed[3]), start, stop)
        assert_within_one_step(got[0], expected[0])
        assert_within_one_step(got[2], expected[1])
    # The first and the last 64 columns, in all rows.
    for start in (0, beyond.shape[1] - 64):
        columns, half = slice(start, start + 64), slice(start // 2, start // 2 + 32)
        atom = slice(start // 64, start // 64 + 1)
        cut = packed[0][:, half], packed[1][atom], packed[2][columns], packed[3][:, atom]
        given = beyond[:, columns], *cut, "transposable"
        expected = REFERENCE["squared_relu24_backward"](*given)
        got = values[:, half], values_t[columns], sums[columns]
        check_gradient(got, expected, *given)


def test_more_than_2_to_the_31_elements_are_added_to(beyond):
    mask = ops.random24(beyond.shape[0], beyond.shape[1], torch.tensor([3], device=DEVICE))
    out = torch.ones_like(beyond)
    ops.add_mask24_(out, beyond, mask, 0.25, 0.5)
    for rows in (slice(0, 256), slice(-256, None)):
        one = torch.ones_like(beyond[rows])
        assert_same(
            out[rows], REFERENCE["add_mask24_"](one, beyond[rows], mask[rows], 0.25, 0.5, None)
        )


# Chance


def test_the_mean_of_samples_is_the_matrix_within_five_standard_errors():
    x = matrix(128, 64, torch.float32)
    x = x.sign() * (x.abs() + 0.1)
    x[::8] *= 20  # larger than the others of its group together
    a = x.T.double().abs().reshape(64, 32, 4)
    weight = torch.minimum(a, a.sum(dim=-1, keepdim=True) - a)
    kept = torch.maximum(a, weight.sum(dim=-1, keepdim=True) / 2)  # with probability a / kept
    variance = (a * (kept - a)).reshape(64, 128)

    repeats, seeds = 512, 200
    tall = x.repeat(repeats, 1)  # every repeat draws its own numbers
    total, squares = (torch.zeros(64, 128, dtype=torch.float64, device=DEVICE) for _ in range(2))
    for seed in range(seeds):
        sample = ops.unpack24(*ops.mvue24(tall, torch.tensor([seed], device=DEVICE)))
        sample = sample.reshape(64, repeats, 128).double()
        total += sample.sum(dim=1)
        squares += sample.square().sum(dim=1)
    count = repeats * seeds
    error = (variance / count).sqrt()
    # What is always kept may still be lost by rounding, about once in 2^23 samples.
    rare = 3 * kept.reshape(64, 128) / count
    assert ((total / count - x.T).abs() <= 5 * error + rare).all()
    assert (error > 0.001).float().mean() > 0.5
    excess = squares.sum() / count - x.double().square().sum()
    torch.testing.assert_close(excess, variance.sum(), rtol=1e-2, atol=0)
