"""The 2:4 products over and over, on streams, in CUDA graphs, compiled, on matrices beyond 2^31."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from kernel_checks import DEVICE, assert_same, needs_kernels
from matmul_checks import (
    Product,
    columns_contiguous,
    dirty,
    needs_hopper,
    normal,
    rows_contiguous,
)
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference.pack24 import meta_shape24

pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper]

SHAPES = {"long sums": (768, 1000, 50432), "many tiles": (3072, 5001, 768), "tails": (65, 129, 100)}
"""M, N, K. The first has few tiles and is split along K."""

Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def arguments(
    shape: tuple[int, int, int], dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> Given:
    """Give values, meta, b, a bias and a residual of a transposed result."""
    M, N, K = shape
    values, meta, *_ = ops.sparsify24(normal(M, K, dtype, DEVICE, seed) / K**0.5, "row")
    b = normal(K, N, dtype, DEVICE, seed + 1)
    bias, residual = normal(1, M, dtype, DEVICE, seed + 2)[0], normal(N, M, dtype, DEVICE, seed + 3)
    return values, meta, b, bias, residual


def several(
    values: Tensor, meta: Tensor, b: Tensor, bias: Tensor, residual: Tensor
) -> tuple[Tensor, ...]:
    """Call the op with b rows contiguous and columns contiguous, both ways out."""
    columns = b.T.contiguous().T
    plain = ops.matmul24(values, meta, b)
    forward = ops.matmul24(values, meta, columns, bias, True, None, "gelu", residual)
    wide = ops.matmul24(values, meta, b, None, True, torch.float32)
    return plain, forward, wide


def assert_all_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other)


@dtypes
@shapes
def test_a_hundred_calls_give_the_same_bits(shape, dtype):
    given = arguments(shape, dtype)
    first = several(*given)
    for _ in range(100):
        assert_all_same(several(*given), first)


@shapes
def test_two_streams_at_once_give_what_one_gives(shape):
    inputs = [arguments(shape, seed=seed) for seed in (0, 10)]
    expected = [several(*given) for given in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        for n, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results.append((n, several(*inputs[n])))
    torch.cuda.synchronize()
    for n, got in results:
        assert_all_same(got, expected[n])


def test_a_thread_may_begin_with_a_product():
    """As autograd's do: such a thread has no CUDA context yet."""
    given = arguments(SHAPES["tails"])
    expected = several(*given)
    torch.cuda.synchronize()
    with ThreadPoolExecutor(1) as threads:
        assert_all_same(threads.submit(several, *given).result(), expected)


@shapes
def test_a_captured_call_replays_on_what_its_inputs_hold_then(shape):
    given, others = arguments(shape), arguments(shape, seed=10)
    several(*given)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = several(*given)
    for inputs in (tuple(x.clone() for x in given), others):
        expected = several(*inputs)
        for held, new in zip(given, inputs, strict=True):
            held.copy_(new)
        for _ in range(2):
            for result in captured:
                result.fill_(float("nan"))
            graph.replay()
            assert_all_same(captured, expected)


@shapes
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_function_of_several_products_compiles_whole(backend, shape):
    given = arguments(shape)
    torch.compiler.reset()
    compiled = torch.compile(several, fullgraph=True, backend=backend)
    assert_all_same(compiled(*given), several(*given))


def test_compiled_sizes_may_change():
    torch.compiler.reset()
    compiled = torch.compile(several, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((65, 129, 100), (128, 72, 256), (200, 9, 60)):
        given = arguments(shape)
        assert_all_same(compiled(*given), several(*given))


def test_the_device_is_that_of_the_operands():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    given = arguments(SHAPES["tails"])
    expected = several(*given)
    elsewhere = several(*(x.to("cuda:1") for x in given))
    assert torch.cuda.current_device() == 0
    for one, other in zip(elsewhere, expected, strict=True):
        assert one.device == torch.device("cuda:1")
        assert_same(one.to(DEVICE), other)


def test_a_plain_product_leaves_no_memory_behind():
    for shape in SHAPES.values():
        given = arguments(shape)
        several(*given)
        gc.collect()
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            several(*given)
        assert torch.cuda.memory_allocated() == before


# More than 2^31 elements

LONG, SIDE = 65664, 33024
assert LONG * SIDE > 2**31 + 2**20


@pytest.fixture
def roomy() -> Iterator[None]:
    """Skip without 60 GB of free memory; what a test took goes back afterwards."""
    gc.collect()
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 60e9:
        pytest.skip("needs 60 GB of free GPU memory")
    yield
    gc.collect()
    torch.cuda.empty_cache()


def large(rows: int, columns: int, seed: int) -> Tensor:
    x = torch.empty(rows, columns, dtype=torch.bfloat16, device=DEVICE)
    return x.normal_(generator=torch.Generator(DEVICE).manual_seed(seed))


def large_packed(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Give values and meta of whole atoms, the positions in a group at random."""
    assert rows % 64 == 0
    assert columns % 64 == 0
    values = large(rows, columns // 2, 0).div_(columns**0.5)
    pairs = torch.tensor([4, 8, 9, 12, 13, 14], dtype=torch.uint8, device=DEVICE)
    both = (pairs[:, None] << 4 | pairs).flatten().repeat(8)[:256]
    byte = torch.empty(meta_shape24(rows, columns), dtype=torch.uint8, device=DEVICE)
    for atoms in byte.random_(generator=torch.Generator(DEVICE).manual_seed(1)):
        atoms.copy_(both[atoms.int()])
    return values, byte


def blocks(rows: int) -> list[slice]:
    """Give the first, a middle and the last 64 rows."""
    return [slice(start, start + 64) for start in (0, rows // 128 * 64, rows - 64)]


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("transpose_out", [False, True])
def test_a_result_of_more_than_2_to_the_31_elements(transpose_out):
    values, meta = large_packed(LONG, 64)
    b = large(64, SIDE, 1)
    shape = (SIDE, LONG) if transpose_out else (LONG, SIDE)
    given = values, meta, b

    def hold(out: Tensor, plus: Tensor | None = None) -> None:
        assert out.shape == shape
        for rows in blocks(LONG):
            one = Product(values[rows], meta[:, rows.start // 64 : rows.stop // 64], b)
            got, by_torch, exact = (out.T if transpose_out else out)[rows], one.by_torch, one.exact
            if plus is not None:
                term = (plus.T if transpose_out else plus)[rows]
                by_torch, exact = by_torch + term.float(), exact + term.double()
            assert_as_accurate_as_torch(got, by_torch.to(out.dtype), exact)

    with dirty(shape, like=values):
        out = ops.matmul24(*given, None, transpose_out)
    hold(out)
    del out
    residual = large(*shape, 2)
    hold(ops.matmul24(*given, None, transpose_out, None, "none", residual), residual)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("layout", [rows_contiguous, columns_contiguous])
def test_a_dense_operand_of_more_than_2_to_the_31_elements(layout):
    values, meta = large_packed(64, LONG)
    b = large(LONG, SIDE, 1) if layout is rows_contiguous else large(SIDE, LONG, 1).T
    with dirty((64, SIDE), like=values):
        got = ops.matmul24(values, meta, b)
    for columns in blocks(SIDE):
        one = Product(values, meta, b[:, columns])
        assert_as_accurate_as_torch(got[:, columns], one.by_torch.bfloat16(), one.exact)


@pytest.mark.usefixtures("roomy")
def test_a_packed_operand_of_more_than_2_to_the_31_values():
    K = 66048
    assert LONG * K // 2 > 2**31
    values, meta = large_packed(LONG, K)
    b = large(K, 24, 1)
    with dirty((LONG, 24), like=values):
        got = ops.matmul24(values, meta, b)
    for rows in blocks(LONG):
        one = Product(values[rows], meta[:, rows.start // 64 : rows.stop // 64], b)
        assert_as_accurate_as_torch(got[rows], one.by_torch.bfloat16(), one.exact)
