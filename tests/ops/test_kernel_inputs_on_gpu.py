"""CUDA kernels and hostile inputs: values, strides, offsets, sizes; transposing the input."""

import pytest
import torch
from kernel_checks import (
    DEVICE,
    KINDS,
    REFERENCE,
    arguments,
    assert_same,
    call,
    check,
    leaves,
    matrix,
    needs_kernels,
    poisoned,
)
from test_column_sums import check_sums
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference.masks24 import (
    PATTERNS,
    score_tiles,
    score_tiles_l2,
    select24,
    tiles24,
    unpack_bits,
    untile24,
)
from sparsetrain.select import RULES

pytestmark = [pytest.mark.gpu, needs_kernels]

NAMES = list(REFERENCE)
DTYPES = [torch.bfloat16, torch.float16, torch.float32]

RULES_OF = {
    "apply24": ["transposable", "greedy"],
    "mask24": ["transposable", "greedy"],
    "select24": RULES,
    "sparsify24": RULES,
    "pack_into24": ["transposable", "transposable_l2", "greedy"],
    "squared_relu24": RULES,
    "squared_relu24_backward": RULES,
}
RULED = [(name, rule) for name in NAMES for rule in RULES_OF.get(name, ["transposable"])]

names = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
rules = pytest.mark.parametrize("rule", RULES)


# Values


@dtypes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "rule"), [(n, r) for n in NAMES for r in RULES_OF.get(n, RULES[:1])]
)
def test_hostile_values(name, rule, kind, dtype):
    for rows, columns in ((130, 260), (64, 512)):
        check(name, *arguments(name, matrix(rows, columns, dtype, kind), rule))


@rules
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_values_that_become_16_bit(kind, rule):
    x = matrix(200, 264, torch.float32, kind)
    for dtype in DTYPES[:2]:
        check("sparsify24", x, rule, dtype, None)
        check("apply24", x, select24(x, "greedy"), dtype)
        if rule != "row":
            forms = ops.empty_forms24(x, dtype, columns=True, dense=True)
            check("pack_into24", x, None, rule, *forms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", DTYPES[:2], ids=str)
def test_hostile_values_that_mask24_makes_16_bit(kind, to):
    x = matrix(200, 264, torch.float32, kind)
    mask = select24(x, "greedy")
    for kept, pruned in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.3)):
        with poisoned():
            got = ops.mask24(x, mask, kept, pruned, to)
        assert_same(got, REFERENCE["mask24"](x, mask, kept, pruned).to(to))


@dtypes
@pytest.mark.parametrize("kind", ["ties", "post-ReLU", "zeros", "tiny"])
def test_sums_of_hostile_values(kind, dtype):
    for rows, columns in ((130, 260), (64, 512)):
        check_sums(matrix(rows, columns, dtype, kind))


@dtypes
@pytest.mark.parametrize("row", [0, 63, 64, 299])
def test_a_sum_that_is_not_finite_stays_in_its_column(row, dtype):
    x = matrix(300, 264, dtype)
    x[row, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")], device=DEVICE)
    with poisoned():
        got = ops.column_sums(x)
    assert got[0].isnan()
    assert got[1:3].tolist() == [float("inf"), -float("inf")]
    assert got[3:].isfinite().all()


@dtypes
@pytest.mark.parametrize("factors", [(1.0, 0.0), (0.0, 2e-4), (0.0, 0.0)])
def test_a_factor_of_zero_gives_zero_of_nan_and_infinity(dtype, factors):
    x = torch.cat([matrix(66, 36, dtype, kind) for kind in ("nan", "inf", "huge")])
    (got,) = check("mask24", x, arguments("mask24", x)[1], *factors)
    kept = unpack_bits(arguments("mask24", x)[1], 36)
    for factor, at in zip(factors, (kept, ~kept), strict=True):
        if factor == 0:
            assert not got[at].any()
            assert not got[at].signbit().any()


@rules
@dtypes
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_where_h_is_zero_so_is_the_gradient_under_any(bad, dtype, rule):
    z = matrix(130, 68, dtype) - 0.5
    packed = ops.squared_relu24(z, rule)
    values, values_t, _ = check("squared_relu24_backward", torch.full_like(z, bad), *packed, rule)
    for h, dz in ((packed[0], values), (packed[2], values_t)):
        assert (h == 0).any()
        assert not dz[h == 0].any()
        assert not dz[h > 0].isfinite().any()


@pytest.mark.parametrize("exponent", [-63, -65])
def test_an_h_next_to_zero_has_its_gradient(exponent):
    z = torch.full((4, 8), 2.0**exponent, device=DEVICE, dtype=torch.bfloat16)
    packed = check("squared_relu24", z, "row")
    values, *_ = check("squared_relu24_backward", torch.ones_like(z), *packed, "row")
    assert (values == 2.0 ** (exponent + 1)).all()


# Surroundings


def filled(*shape: int, like: Tensor) -> Tensor:
    fill = float("nan") if like.is_floating_point() else 255
    return torch.full(shape, fill, dtype=like.dtype, device=like.device)


def odd_offset(x: Tensor) -> Tensor:
    """Contiguous, but one element after the start of its memory."""
    return filled(x.numel() + 3, like=x)[1 : 1 + x.numel()].view(x.shape).copy_(x)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def every_other_column(x: Tensor) -> Tensor:
    buffer = filled(*x.shape[:-1], 2 * x.shape[-1] + 3, like=x)
    return buffer[..., 1 : 1 + 2 * x.shape[-1] : 2].copy_(x)


def every_other_row(x: Tensor) -> Tensor:
    buffer = filled(2 * x.shape[0] + 1, *x.shape[1:], like=x)
    return buffer[1::2].copy_(x)


def within_wider_rows(x: Tensor) -> Tensor:
    buffer = filled(*x.shape[:-1], x.shape[-1] + 5, like=x)
    return buffer[..., 3 : 3 + x.shape[-1]].copy_(x)


def aligned_in_wider_rows(x: Tensor) -> Tensor:
    buffer = filled(*x.shape[:-1], x.shape[-1] + 32, like=x)
    return buffer[..., 16 : 16 + x.shape[-1]].copy_(x)


VIEWS = [
    transposed,
    every_other_column,
    every_other_row,
    within_wider_rows,
    aligned_in_wider_rows,
    odd_offset,
]


@dtypes
@names
@pytest.mark.parametrize("view", VIEWS)
def test_strides_and_offsets_of_any_argument_do_not_matter(view, name, dtype):
    for rows, columns in ((37, 132), (128, 256)):
        plain = arguments(name, matrix(rows, columns, dtype))
        expected = call(name, *plain)
        read = plain[:3] if name == "pack_into24" else plain  # not the forms it writes
        for place, argument in enumerate(read):
            if isinstance(argument, Tensor) and (view is odd_offset or argument.dim() > 1):
                seen = [a.clone() if isinstance(a, Tensor) else a for a in plain]
                seen[place] = view(argument)
                with poisoned():
                    got = leaves(getattr(ops, name)(*seen))
                for one, other in zip(got, expected, strict=True):
                    assert one.is_contiguous() or one is seen[0]  # add_mask24_ returns out
                    assert_same(one, other)


@dtypes
@pytest.mark.parametrize("view", VIEWS)
def test_sums_of_any_view(view, dtype):
    for rows, columns in ((37, 132), (128, 256), (300, 7)):
        with poisoned():
            check_sums(view(matrix(rows, columns, dtype)))


@pytest.mark.parametrize("to", DTYPES[:2], ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_strides_and_offsets_do_not_matter_to_a_mask24_in_another_dtype(view, to):
    for rows, columns in ((37, 132), (128, 256)):
        x, mask, kept, pruned = arguments("mask24", matrix(rows, columns, torch.float32))
        (expected,) = call("mask24", x, mask, kept, pruned)
        expected = expected.to(to)
        for given in ((view(x), mask), (x, view(mask))):
            with poisoned():
                got = ops.mask24(*given, kept, pruned, to)
            assert got.is_contiguous()
            assert_same(got, expected)


@dtypes
@pytest.mark.parametrize("view", VIEWS)
def test_adding_in_place_leaves_what_lies_about_a_view(view, dtype):
    for rows, columns in ((37, 132), (128, 256)):
        out, *rest = arguments("add_mask24_", matrix(rows, columns, dtype))
        seen = view(out)
        memory = seen._base
        before = memory.clone()
        ops.add_mask24_(seen, *rest)
        assert not torch.equal(seen, out)
        seen.copy_(out)
        assert_same(memory, before)


@dtypes
@names
@pytest.mark.parametrize("columns", [132, 136])
def test_a_row_that_is_every_row(name, dtype, columns):
    x = matrix(1, columns, dtype).expand(130, columns)
    assert x.stride(0) == 0
    check(name, *arguments(name, x))


@dtypes
@names
@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (5, 0), (128, 0), (0, 0)])
def test_empty_matrices(name, rows, columns, dtype):
    check(name, *arguments(name, matrix(rows, columns, dtype)))


@dtypes
def test_sums_of_a_row_that_is_every_row_and_of_none(dtype):
    for columns in (132, 136):
        with poisoned():
            check_sums(matrix(1, columns, dtype).expand(130, columns))
    for rows, columns in ((0, 8), (5, 0), (0, 0)):
        with poisoned():
            assert ops.column_sums(matrix(rows, columns, dtype)).tolist() == [0] * columns


@names
@pytest.mark.parametrize(("rows", "columns"), [(63, 252), (64, 256), (65, 260), (129, 4), (4, 516)])
def test_sizes_about_the_tile_of_a_block(name, rows, columns):
    check(name, *arguments(name, matrix(rows, columns, torch.bfloat16)))


# Dtypes without a kernel


@pytest.mark.parametrize(
    ("dtype", "to", "words"),
    [
        (torch.bfloat16, torch.float16, "dtype: Half from BFloat16 has no CUDA kernel; leave it"),
        (torch.float16, torch.float32, "dtype: Float from Half has no CUDA kernel; leave it"),
        (torch.float32, torch.float64, "dtype: Double"),
    ],
)
def test_a_mask24_in_a_dtype_without_a_kernel_is_refused(dtype, to, words):
    x = matrix(8, 16, dtype)
    with pytest.raises(RuntimeError, match=words):
        ops.mask24(x, select24(x, "transposable"), dtype=to)


def test_sums_of_float64_are_refused_by_function_and_kernel():
    x = matrix(8, 16, torch.float32).double()
    words = "has no CUDA kernel; use float32, bfloat16 or float16, or a CPU tensor"
    with pytest.raises(ValueError, match=f"^x: torch.float64 {words}"):
        ops.column_sums(x)
    with pytest.raises(RuntimeError, match=f"x: Double {words}"):
        torch.ops.sparsetrain.column_sums(x)


# Transposing


def without_ties(x: Tensor, rule: str) -> Tensor:
    """Give x with another tile where several patterns are the best of the rule."""
    if not rule.startswith("transposable"):
        return x
    tiles = tiles24(x)
    scores = (score_tiles if rule == "transposable" else score_tiles_l2)(tiles)
    best = (scores.flatten(1) @ PATTERNS.to(x.device).flatten(1).double().T).topk(2).values
    one = torch.tensor(
        [[5.0, 6, 1, 2], [0, 7, 4, 1], [9, 0, 0.5, 6], [1, 2, 8, 5]], device=x.device
    )
    tied = best[:, 0] == best[:, 1]
    assert tied.float().mean() < 0.1
    return untile24(torch.where(tied[:, None, None], one, tiles), *x.shape)


@rules
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (256, 1024), (640, 384)])
def test_transposing_the_input_swaps_the_outputs(rows, columns, dtype, rule):
    x = without_ties(matrix(rows, columns, torch.float32), rule)
    values, meta, values_t, meta_t, *_ = ops.sparsify24(x, rule, dtype)
    of_transpose = ops.sparsify24(x.T.contiguous(), rule, dtype)
    for got, expected in zip(of_transpose, (values_t, meta_t, values, meta), strict=False):
        assert_same(got, expected)


@dtypes
def test_transposing_the_activation_swaps_the_outputs_of_its_gradient(dtype):
    z, grad_h = (matrix(256, 384, dtype, seed=seed) for seed in (0, 1))
    packed, swapped = ops.squared_relu24(z, "row"), ops.squared_relu24(z.T, "row")
    for got, expected in zip(swapped, packed[2:] + packed[:2], strict=True):
        assert_same(got, expected)
    values, values_t, _ = ops.squared_relu24_backward(grad_h, *packed, "row")
    of_transpose = ops.squared_relu24_backward(grad_h.T, *swapped, "row")
    assert_same(of_transpose[0], values_t)
    assert_same(of_transpose[1], values)


@dtypes
@pytest.mark.parametrize("rule", ["transposable", "transposable_l2"])
def test_the_gradient_is_the_same_from_one_orientation_or_from_both(rule, dtype):
    z, grad_h = (matrix(197, 388, dtype, seed=seed) for seed in (0, 1))
    packed = ops.squared_relu24(z, rule)
    from_one = ops.squared_relu24_backward(grad_h, *packed, rule)
    from_both = ops.squared_relu24_backward(grad_h, *packed, "row")
    assert_same(from_one[0], from_both[0])
    assert_same(from_one[1], from_both[1])
    torch.testing.assert_close(from_one[2], from_both[2])
