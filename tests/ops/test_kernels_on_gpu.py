"""Every CUDA kernel gives the bits of its reference: all rules, dtypes, odd sizes and large ones.

The gradient of squared ReLU, which rounds a root, is held to one step of its dtype; sums, whose
order is the kernel's own, to the accuracy of PyTorch.
"""

import pytest
import torch
from kernel_checks import (
    DEVICE,
    REFERENCE,
    arguments,
    assert_same,
    assert_within_one_step,
    check,
    matrix,
    needs_kernels,
    poisoned,
    rows_of,
)
from test_column_sums import check_sums

from sparsetrain import ops
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import RULES

pytestmark = [pytest.mark.gpu, needs_kernels]

SIZES = [(1, 4), (16, 16), (37, 132), (130, 260), (200, 68), (197, 768), (1000, 1288), (3072, 768)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
CONVERSIONS = [*((d, None) for d in DTYPES), (torch.float32, DTYPES[0]), (torch.float32, DTYPES[1])]
WIDE = [(13001, 2056), (8202, 3080), (9003, 2820)]
"""More than 800 tiles of 64 x 256, where packing takes wide ones, ragged in both directions; the
last has rows that are not whole vectors."""
SLICE = 4096
FACTORS = [(1.0, 0.0), (0.0, 2e-4), (1.0, 0.3), (-2.0, 1e-6)]
SUMMED = [*SIZES, (5, 1), (3000, 7), (129, 1001), (64, 65), (50432, 768), (30, 70001)]

sizes = pytest.mark.parametrize(("rows", "columns"), SIZES)
wide_sizes = pytest.mark.parametrize(("rows", "columns"), WIDE)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
conversions = pytest.mark.parametrize(("dtype", "to"), CONVERSIONS, ids=str)
rules = pytest.mark.parametrize("rule", RULES)
FORMS = {
    "both": {"rows": True, "columns": True},
    "rows, dense": {"rows": True, "dense": True},
    "columns, dense": {"columns": True, "dense": True},
    "rows": {"rows": True},
    "all": {"rows": True, "columns": True, "dense": True},
}
wanted = pytest.mark.parametrize("forms", FORMS)
one_mask = pytest.mark.parametrize("rule", ["transposable", "transposable_l2", "greedy"])


@pytest.mark.parametrize("name", [*REFERENCE, "column_sums"])
def test_the_op_runs_a_kernel_and_not_the_reference(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsetrain::{name}", "CUDA")


def test_memory_is_poisoned_before_a_kernel_runs():
    x = torch.zeros(4, device=DEVICE, dtype=torch.bfloat16)
    with poisoned():
        assert x.new_empty(1000).isnan().all()
        assert (x.new_empty(1000, dtype=torch.uint8) == 255).all()


@rules
@sizes
@conversions
def test_sparsify24(rows, columns, dtype, to, rule):
    check("sparsify24", matrix(rows, columns, dtype), rule, to, None)


@rules
@sizes
@dtypes
def test_sparsify24_counts_flips_against_a_previous_mask(rows, columns, dtype, rule):
    x, _, _, previous = arguments("sparsify24", matrix(rows, columns, dtype), rule)
    *_, mask, flips = check("sparsify24", x, rule, None, previous)
    assert flips == (unpack_bits(mask, columns) != unpack_bits(previous, columns)).sum()
    assert check("sparsify24", x, rule, None, mask)[-1] == 0


@sizes
@conversions
@pytest.mark.parametrize("rule", ["transposable", "greedy"])
def test_apply24(rows, columns, dtype, to, rule):
    x = matrix(rows, columns, dtype)
    check("apply24", x, arguments("apply24", x, rule)[1], to)


@one_mask
@sizes
@conversions
@wanted
def test_pack_into24_by_a_rule(rows, columns, dtype, to, forms, rule):
    x = matrix(rows, columns, dtype)
    check("pack_into24", x, None, rule, *ops.empty_forms24(x, to, **FORMS[forms]))


@sizes
@conversions
@pytest.mark.parametrize("forms", ["rows", "rows, dense"])
def test_pack_into24_by_rows_alone(rows, columns, dtype, to, forms):
    x = matrix(rows, columns, dtype)
    check("pack_into24", x, None, "row", *ops.empty_forms24(x, to, **FORMS[forms]))


@one_mask
@wide_sizes
@conversions
@wanted
def test_pack_into24_of_many_tiles(rows, columns, dtype, to, forms, rule):
    x = matrix(rows, columns, dtype)
    check("pack_into24", x, None, rule, *ops.empty_forms24(x, to, **FORMS[forms]))


@sizes
@conversions
@wanted
def test_pack_into24_with_a_mask(rows, columns, dtype, to, forms):
    x = matrix(rows, columns, dtype)
    mask = arguments("apply24", x.flip(1).contiguous(), "greedy")[1]
    check("pack_into24", x, mask, "transposable", *ops.empty_forms24(x, to, **FORMS[forms]))


@sizes
@dtypes
def test_apply24_of_a_mask_that_keeps_less(rows, columns, dtype):
    x = matrix(rows, columns, dtype)
    mask = arguments("apply24", x)[1]
    thinner = mask & torch.randint(256, mask.shape, dtype=torch.uint8, device=mask.device)
    for few in (thinner, torch.zeros_like(mask)):
        check("apply24", x, few, None)


@rules
@sizes
@dtypes
def test_squared_relu24_and_its_gradient(rows, columns, dtype, rule):
    z = matrix(rows, columns, dtype)
    packed = check("squared_relu24", z, rule)
    check("squared_relu24_backward", matrix(rows, columns, dtype, seed=1), *packed, rule)


@rules
@sizes
@dtypes
def test_select24(rows, columns, dtype, rule):
    check("select24", matrix(rows, columns, dtype), rule)


@sizes
@dtypes
@pytest.mark.parametrize("factors", FACTORS)
def test_mask24(rows, columns, dtype, factors):
    x = matrix(rows, columns, dtype)
    mask = torch.randint(256, (rows, (columns + 7) // 8), dtype=torch.uint8, device=x.device)
    check("mask24", x, mask, *factors)


@sizes
@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize(("kept", "pruned"), FACTORS)
def test_mask24_of_float32_in_another_dtype(rows, columns, to, kept, pruned):
    x = matrix(rows, columns, torch.float32)
    mask = torch.randint(256, (rows, (columns + 7) // 8), dtype=torch.uint8, device=x.device)
    with poisoned():
        got = ops.mask24(x, mask, kept, pruned, to)
    assert_same(got, REFERENCE["mask24"](x, mask, kept, pruned).to(to))


@dtypes
@pytest.mark.parametrize(("rows", "columns"), SUMMED)
def test_column_sums(rows, columns, dtype):
    with poisoned():
        check_sums(matrix(rows, columns, dtype))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_sums_of_16_bit_numbers_are_not_rounded_to_16_bits(dtype):
    ones = torch.ones(4099, 264, dtype=dtype, device=DEVICE)  # which neither dtype can represent
    assert (ops.column_sums(ones) == 4099).all()


@sizes
@dtypes
@pytest.mark.parametrize("factors", [(0.0, 1.0), (0.0, 2e-4), (0.25, 0.3), (-2.0, 0.0)])
@pytest.mark.parametrize("scale", [None, 1.483])
def test_add_mask24_(rows, columns, dtype, factors, scale):
    out, x = (matrix(rows, columns, dtype, seed=seed) for seed in (0, 1))
    mask = torch.randint(256, (rows, (columns + 7) // 8), dtype=torch.uint8, device=x.device)
    scale = None if scale is None else torch.tensor(scale, device=x.device)
    check("add_mask24_", out, x, mask, *factors, scale)


@sizes
@dtypes
@pytest.mark.parametrize("kind", ["gaussian", "heavy-tailed", "ties", "post-ReLU"])
def test_mvue24(rows, columns, dtype, kind):
    x = matrix(rows, columns, dtype, kind)
    for seed in (0, 5, -1, 2**63 - 1):
        check("mvue24", x, torch.tensor([seed], device=x.device))


@sizes
@conversions
def test_soft_threshold24(rows, columns, dtype, to):
    x = matrix(rows, columns, dtype)
    check("soft_threshold24", *arguments("soft_threshold24", x), to)


@sizes
def test_flips24_and_random24(rows, columns):
    x = matrix(rows, columns, torch.float32)
    check("flips24", *arguments("flips24", x, "row"))
    for seed in (0, 2**40 + 7, -1):
        check("random24", rows, columns, torch.tensor([seed], device=x.device))


# Wide tiles


@rules
@wide_sizes
@conversions
def test_sparsify24_of_many_tiles(rows, columns, dtype, to, rule):
    x, _, _, previous = arguments("sparsify24", matrix(rows, columns, dtype), rule)
    *_, flips = check("sparsify24", x, rule, to, previous)
    assert flips > 0


@wide_sizes
@conversions
@pytest.mark.parametrize("rule", ["transposable", "greedy"])
def test_apply24_of_many_tiles(rows, columns, dtype, to, rule):
    x = matrix(rows, columns, dtype)
    check("apply24", x, arguments("apply24", x, rule)[1], to)


@rules
@wide_sizes
@dtypes
def test_squared_relu24_and_its_gradient_of_many_tiles(rows, columns, dtype, rule):
    packed = check("squared_relu24", matrix(rows, columns, dtype), rule)
    grad_h = matrix(rows, columns, dtype, seed=1)
    check("squared_relu24_backward", grad_h, *packed, rule)


@pytest.mark.parametrize(
    ("rows", "columns", "rule"),
    [(65536, 8192, "transposable"), (25216, 4096, "transposable_l2"), (25216, 4096, "row")],
)
def test_a_large_matrix_packs_as_its_slices(rows, columns, rule):
    x = matrix(rows, columns, torch.bfloat16)
    with poisoned():
        *packed, mask, _ = ops.sparsify24(x, rule)
        again = packed if rule == "row" else ops.apply24(x, mask)
    for start in range(0, rows, SLICE):
        stop = min(start + SLICE, rows)
        expected = REFERENCE["sparsify24"](x[start:stop], rule, None, None)
        for result in (packed, again):
            for got, other in zip(rows_of(result, start, stop), expected[:4], strict=True):
                assert_same(got, other)
        assert_same(mask[start:stop], expected[4])


@pytest.mark.parametrize("rule", ["transposable", "row"])
def test_the_activation_of_a_large_matrix_is_that_of_its_slices(rule):
    rows, columns = 25216, 4096
    z, grad_h = (matrix(rows, columns, torch.bfloat16, seed=seed) for seed in (0, 1))
    with poisoned():
        packed = ops.squared_relu24(z, rule)
        values, values_t, sums = ops.squared_relu24_backward(grad_h, *packed, rule)
    exact = torch.zeros(columns, dtype=torch.float64, device=DEVICE)
    for start in range(0, rows, SLICE):
        stop = min(start + SLICE, rows)
        h = REFERENCE["squared_relu24"](z[start:stop], rule)
        grad = REFERENCE["squared_relu24_backward"](grad_h[start:stop], *h, rule)
        for got, other in zip(rows_of(packed, start, stop), h, strict=True):
            assert_same(got, other)
        dz = rows_of((values, packed[1], values_t, packed[3]), start, stop)
        assert_within_one_step(dz[0], grad[0])
        assert_within_one_step(dz[2], grad[1])
        exact += grad[2]
    # Each slice's sum is a float32 of about 4096 terms.
    torch.testing.assert_close(sums.double(), exact, rtol=1e-5, atol=1e-3)
