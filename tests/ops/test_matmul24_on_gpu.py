"""The 2:4 products on the GPU, as accurate as PyTorch's: sizes, layouts, epilogues, configs."""

from itertools import product
from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, needs_kernels
from matmul_checks import (
    EPILOGUES,
    LAYOUTS,
    Product,
    check_sizes,
    columns_contiguous,
    finished,
    needs_hopper,
    neither,
    normal,
    odd_rows,
    packed,
    packed_both,
    rows_contiguous,
    torch_product,
)
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference import matmul24 as reference

pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper]

ROWS = (1, 63, 64, 65, 200, 300)
COLUMNS = (1, 7, 8, 64, 129, 200, 257, 1000)
CONTRACTED = (4, 60, 64, 68, 100, 192, 1000, 4096)
SIZES = [
    (1, 1, 4),
    (63, 7, 60),
    (64, 8, 64),
    (65, 129, 68),
    (200, 200, 100),
    (300, 257, 192),
    (64, 1000, 1000),
    (300, 1, 4096),
    (1, 1000, 192),
]
"""M, N, K: every one of the above once at least."""

dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
transposes = pytest.mark.parametrize("transpose_out", [False, True], ids=["plain", "transposed"])
layouts = pytest.mark.parametrize("layout", LAYOUTS)
aligned = pytest.mark.parametrize("layout", [columns_contiguous, rows_contiguous])

GELU = EPILOGUES[3]
"""In the fast end of a tile, where columns of b are contiguous."""


def test_the_op_runs_a_kernel_and_not_the_reference():
    assert torch._C._dispatch_has_kernel_for_dispatch_key("sparsetrain::matmul24", "CUDA")


# Sizes, layouts, epilogues


@dtypes
@layouts
@transposes
def test_every_size_in_every_layout(dtype, layout, transpose_out):
    sizes = [*product(ROWS, COLUMNS, CONTRACTED)]
    check_sizes(sizes, dtype, layout, transpose_out, Product.check_matmul24, DEVICE)


@dtypes
@layouts
@transposes
def test_every_epilogue_in_every_layout(dtype, layout, transpose_out):
    check_sizes(SIZES, dtype, layout, transpose_out, Product.check_all, DEVICE)


@dtypes
@transposes
@pytest.mark.parametrize("size", [(0, 8, 64), (64, 0, 64), (64, 8, 0), (0, 0, 0), (65, 0, 0)])
def test_empty_products(dtype, size, transpose_out):
    check_sizes([size], dtype, rows_contiguous, transpose_out, Product.check_all, DEVICE)


@dtypes
@aligned
@transposes
@pytest.mark.parametrize("size", [(3072, 5001, 768), (1025, 3001, 1096), (768, 1000, 50432)])
def test_many_tiles_and_long_sums(dtype, layout, transpose_out, size):
    def check(one: Product) -> None:
        one.check_matmul24(EPILOGUES[-1])
        one.check_matmul24(GELU)
        one.check_matmul24(out_dtype=torch.float32)
        one.check_matmul24(EPILOGUES[-1], torch.float32)

    check_sizes([size], dtype, layout, transpose_out, check, DEVICE)


@dtypes
@layouts
@transposes
def test_tokens_that_are_missing_are_zero_and_what_lies_behind_b_is_not_read(
    dtype, layout, transpose_out
):
    for tokens in (1, 127, 129, 200, 1000):
        x = normal(tokens, 200, dtype, DEVICE) / tokens**0.5
        _, _, values_t, meta_t, _, _ = ops.sparsify24(x)
        b = layout(normal(tokens, 72, dtype, DEVICE, seed=1))  # NaN comes after its last row
        Product(values_t, meta_t, b, transpose_out).check_all()


# The packed operand


def odd_offset(x: Tensor) -> Tensor:
    """Give x contiguous, one element after the start of its memory."""
    return odd_rows(x.reshape(1, -1))[0].view(x.shape)


def strided(x: Tensor) -> Tensor:
    return neither(x.flatten(1)).unflatten(1, x.shape[1:])


@dtypes
@pytest.mark.parametrize("view", [odd_offset, strided])
def test_strides_and_offsets_of_the_packed_operand_do_not_matter(dtype, view):
    for M, K in ((65, 100), (200, 256)):
        values, meta = packed(M, K, dtype, DEVICE)
        b = normal(K, 72, dtype, DEVICE, seed=1)
        for seen in ((view(values), meta), (values, view(meta)), (view(values), view(meta))):
            Product(*seen, b).check_all()


@dtypes
def test_rows_and_columns_of_a_packed_matrix_multiply_where_they_lie(dtype):
    values, meta = packed(320, 512, dtype, DEVICE)
    b = normal(512, 72, dtype, DEVICE, seed=1)
    Product(values[64:193], meta[:, 1:4], b).check_all()
    Product(values[:, 64:192], meta[2:6], b[128:384]).check_all()


@dtypes
@pytest.mark.parametrize("tokens", [200, 1000])
def test_the_six_products_of_a_layer_are_those_of_the_masked_matrices(dtype, tokens):
    d, hidden = 192, 328

    def random(rows: int, columns: int, seed: int) -> Tensor:
        return normal(rows, columns, dtype, DEVICE, seed) / columns**0.5

    x, dy, dz = random(tokens, d, 1), random(tokens, d, 2), random(tokens, hidden, 3)
    w1, w2, h = random(hidden, d, 4), random(d, hidden, 5), random(tokens, hidden, 6)
    w1_packed, w1_packed_t, w24 = packed_both(w1)
    h_packed, h_packed_t, h24 = packed_both(h)
    dz_packed, dz_packed_t, dz24 = packed_both(dz)
    results = {
        "W24 forward": (ops.matmul24(*w1_packed, x.T, None, True), x, w24.T),
        "W24 grad input": (ops.matmul24(*w1_packed_t, dz.T, None, True), dz, w24),
        "act24 forward": (ops.matmul24(*h_packed, w2.T), h24, w2.T),
        "act24 grad weight": (ops.matmul24(*h_packed_t, dy, None, True), dy.T, h24),
        "dz24 grad input": (ops.matmul24(*dz_packed, w1), dz24, w1),
        "dz24 grad weight": (ops.matmul24(*dz_packed_t, x), dz24.T, x),
    }
    for name, (got, left, right) in results.items():
        by_torch = torch_product(left, right).to(dtype)
        try:
            assert_as_accurate_as_torch(got, by_torch, left.double() @ right.double())
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


# Configs


@dtypes
@aligned
@transposes
def test_every_config_that_a_table_may_name_is_right(dtype, layout, transpose_out):
    private = torch.ops.sparsetrain
    tiles = range(private._matmul24_tiles().shape[0])
    clusters = ((1, 1), (2, 1), (1, 2), (2, 2))
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    kind = [(torch.bfloat16, torch.float16).index(dtype)]
    rows = int(layout is rows_contiguous)
    try:
        for M, N, K in ((520, 1000, 1096), (200, 72, 4096)):
            values, meta = packed(M, K, dtype, DEVICE)
            one = Product(values, meta, layout(normal(K, N, dtype, DEVICE, 1)), transpose_out)
            for wide, tile, cluster, *rest in product((0, 1), tiles, clusters, (1, 8), (0, 1)):
                config = [tile, *cluster, *rest]
                problem = torch.tensor([[*kind, M, N, K, rows, int(transpose_out), wide]])
                private._matmul24_table(torch.cat([problem, torch.tensor([config])], dim=1))
                assert private._matmul24_choice(problem, sms)[0].tolist() == config
                out_dtype = torch.float32 if wide else None
                one.check_matmul24(EPILOGUES[-1], out_dtype)
                if not wide:
                    one.check_matmul24()
                    one.check_matmul24(GELU)
    finally:
        private._matmul24_table(torch.empty(0, 12, dtype=torch.int64))


# What is not multiplied by the kernel


@transposes
def test_float32_operands_keep_the_reference(transpose_out):
    values, meta = packed(65, 68, torch.float32, DEVICE)
    b = normal(68, 30, torch.float32, DEVICE, seed=1)
    shape = (30, 65) if transpose_out else (65, 30)
    bias = normal(1, shape[1], torch.float32, DEVICE, seed=2)[0]
    residual = normal(*shape, torch.float32, DEVICE, seed=3)
    linear = reference.linear24(values, meta, b, bias, transpose_out)
    got = ops.matmul24(values, meta, b, bias, transpose_out, None, "gelu", residual)
    torch.testing.assert_close(got, finished(linear, None, "gelu", residual))


def test_float64_is_refused_by_function_and_kernel():
    values, meta = packed(8, 16, torch.float64)
    values, meta, b = values.to(DEVICE), meta.to(DEVICE), normal(16, 3, torch.float64, DEVICE)
    with pytest.raises(ValueError, match=r"^values: torch\.float64 has no CUDA kernel"):
        ops.matmul24(values, meta, b)
    with pytest.raises(RuntimeError, match="values: "):
        torch.ops.sparsetrain.matmul24(values, meta, b)


WRONG = {
    "values": lambda x: x[:, :-1],
    "meta": lambda x: x[:, :-1],
    "b": lambda x: x[:-4],
    "bias": lambda x: x[:-1],
    "out_dtype": lambda _: torch.float64,
    "activation": lambda _: "relu",
    "residual": lambda x: x.float(),
}


@pytest.mark.parametrize("argument", WRONG)
def test_what_does_not_fit_is_refused_by_function_and_kernel(argument):
    values, meta = packed(130, 80, torch.bfloat16, DEVICE)
    operands = {"values": values, "meta": meta, "b": normal(80, 24, torch.bfloat16, DEVICE)}
    out = normal(130, 24, torch.bfloat16, DEVICE)
    finish = {"out_dtype": None, "activation": "none", "residual": out}
    given = {**operands, "bias": out[0], **finish}
    wrong: dict[str, Any] = {**given, argument: WRONG[argument](given[argument])}
    for call in (ops.matmul24, torch.ops.sparsetrain.matmul24):
        with pytest.raises((RuntimeError, ValueError), match=rf"\b{argument}: "):
            call(**wrong)
