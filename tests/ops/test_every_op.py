"""What holds for every op: opcheck, fullgraph compilation, free strides, no autograd."""

from typing import Any

import pytest
import torch
from ops_checks import gaussian, within_nan
from torch import Tensor

from sparsetrain import ops

SHAPES = [pytest.param(8, 16, marks=pytest.mark.slow), (5, 12), (0, 8)]


def calls(rows: int, columns: int, dtype: torch.dtype) -> dict[str, tuple[Any, tuple]]:
    """One call of every op: name -> (public function, positional arguments)."""
    x = gaussian(rows, columns, dtype)
    mask = ops.select24(x, "transposable")
    values, meta, values_t, meta_t = ops.squared_relu24(x)
    rows8 = ops.squared_relu24_quantize(x, "transposable", torch.int8)
    # From float32 the values may be narrower; other dtypes stay theirs, as kernels for CUDA want.
    bfloat16, float16 = (torch.bfloat16, torch.float16) if dtype == torch.float32 else (None, None)
    b = gaussian(columns, 6, dtype, seed=1)
    narrow = ops.quantize24(x, mask, torch.int8)
    narrow_b, scales_b = ops.quantize(b.T, torch.int8)
    bias = gaussian(1, 6, dtype, seed=2)[0]
    return {
        "select24": (ops.select24, (x, "row")),
        "pack24": (ops.pack24, (x, mask)),
        "unpack24": (ops.unpack24, (values, meta)),
        "sparsify24": (ops.sparsify24, (x, "transposable_l2", bfloat16, mask)),
        "pack_into24": (ops.pack_into24, (x, None, "greedy", *columns_and_dense(x, bfloat16))),
        "apply24": (ops.apply24, (x, mask, float16)),
        "mask24": (ops.mask24, (x, mask, 2.0, 0.5, bfloat16)),
        "column_sums": (ops.column_sums, (x,)),
        "gelu": (ops.gelu, (x,)),
        "gelu_backward": (
            ops.gelu_backward,
            (gaussian(rows, columns, dtype, seed=3), x, "tanh"),
        ),
        "gelu_quantize": (ops.gelu_quantize, (x, "none", torch.int8)),
        "gelu_backward_quantize": (
            ops.gelu_backward_quantize,
            (gaussian(rows, columns, dtype, seed=3), x, "tanh", torch.int8, True),
        ),
        "add_mask24_": (ops.add_mask24_, (-b[:, :1].T.repeat(rows, 1), x, mask, 0.0, 0.5)),
        "matmul24": (
            ops.matmul24,
            (
                values,
                meta,
                b,
                bias,
                False,
                torch.float32,
                "gelu",
                gaussian(rows, 6, seed=4),
            ),
        ),
        "squared_relu24": (ops.squared_relu24, (x, "greedy")),
        "squared_relu24_quantize": (
            ops.squared_relu24_quantize,
            (x, "transposable", torch.int8),
        ),
        "squared_relu24_backward_quantize": (
            ops.squared_relu24_backward_quantize,
            (gaussian(rows, columns, dtype, seed=3), rows8[1], *rows8[3:], torch.int8, True),
        ),
        "squared_relu24_backward": (
            ops.squared_relu24_backward,
            (
                gaussian(rows, columns, dtype, seed=3),
                values,
                meta,
                values_t,
                meta_t,
                "transposable",
            ),
        ),
        "narrow24": (ops.narrow24, (values, meta, torch.float8_e4m3fn, True)),
        "quantize": (ops.quantize, (x, torch.float8_e4m3fn, "block", True)),
        "quantize24": (ops.quantize24, (x, mask, torch.float8_e4m3fn)),
        "quantize_across24": (ops.quantize_across24, (x, mask, torch.int8, True)),
        "quantize_both24": (ops.quantize_both24, (x, mask, torch.int8, "tensor")),
        "scaled_matmul24": (
            ops.scaled_matmul24,
            (*narrow, narrow_b.T, scales_b.T, bias.float(), False, torch.float16),
        ),
        "scaled_gelu_matmul24": (
            ops.scaled_gelu_matmul24,
            (
                *ops.quantize24(x, mask, torch.float8_e4m3fn),
                *(t.T for t in ops.quantize(b.T, torch.float8_e4m3fn)),
                None,
                "tanh",
                gaussian(6, 1, seed=5).abs() + 1,
            ),
        ),
        "mvue24": (ops.mvue24, (x, torch.tensor([5]))),
        "random24": (ops.random24, (rows, columns, torch.tensor([5]))),
        "soft_threshold24": (ops.soft_threshold24, (x, torch.tensor([1.5]))),
        "flips24": (ops.flips24, (mask, ops.select24(-x + 1, "row"))),
    }


def columns_and_dense(x: Tensor, dtype: torch.dtype | None) -> ops.Forms24:
    """Places that differ each time, so that what is not written shows."""
    forms = ops.empty_forms24(x, dtype, columns=True, dense=True)
    return ops.Forms24(*(None if form is None else form.random_(0, 100) for form in forms))


NAMES = list(calls(4, 4, torch.float32))
PRODUCTS = ["matmul24", "scaled_gelu_matmul24", "scaled_matmul24"]
PURE = [name for name in NAMES if not name.endswith("_") and name != "pack_into24"]


def opchecks(arguments) -> Any:
    """What opcheck tests: test_schema multiplies its inputs, which PyTorch cannot in float8."""
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    eight = any(isinstance(a, Tensor) and a.dtype == torch.float8_e4m3fn for a in arguments)
    return checks if eight else [*checks, "test_schema"]


def leaves(result):
    result = (result,) if isinstance(result, Tensor) else result
    return tuple(tensor for tensor in result if tensor is not None)


def assert_equal(got, expected):
    for one, other in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_every_op_that_is_exported_is_tested():
    assert sorted([*NAMES, "Forms24", "empty_forms24"]) == sorted(ops.__all__)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name, rows, columns):
    dtype = torch.bfloat16 if rows == 5 else torch.float32
    _, arguments = calls(rows, columns, dtype)[name]
    op = getattr(torch.ops.sparsetrain, name).default
    torch.library.opcheck(op, arguments, test_utils=opchecks(arguments))


@pytest.mark.parametrize("name", PURE)
def test_the_whole_function_compiles_to_the_same_result(name):
    function, arguments = calls(6, 16, torch.float32)[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(*arguments), function(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PURE)
def test_strides_and_surroundings_do_not_matter(name, dtype):
    function, arguments = calls(7, 20, dtype)[name]
    views = [within_nan(a) if isinstance(a, Tensor) and a.dim() > 1 else a for a in arguments]
    result = function(*views)
    assert all(tensor.is_contiguous() for tensor in leaves(result))
    if name in PRODUCTS:  # the order of a sum may depend on strides
        for one, other in zip(leaves(result), leaves(function(*arguments)), strict=True):
            torch.testing.assert_close(one, other)
    else:
        assert_equal(result, function(*arguments))


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", PURE)
def test_torchs_default_dtype_does_not_matter(name, default):
    function, arguments = calls(7, 20, torch.float32)[name]
    expected = function(*arguments)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = function(*arguments)
    finally:
        torch.set_default_dtype(before)
    assert_equal(found, expected)


@pytest.mark.parametrize("name", PURE)
def test_inputs_stay_as_they_were(name):
    function, arguments = calls(8, 16, torch.float32)[name]
    before = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    function(*arguments)
    for one, other in zip(arguments, before, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("name", PURE)
def test_a_backward_through_an_op_warns_and_gives_no_gradient(name):
    function, arguments = calls(8, 16, torch.float32)[name]
    differentiable = [
        a.requires_grad_() for a in arguments if isinstance(a, Tensor) and a.is_floating_point()
    ]
    results = [y for y in leaves(function(*arguments)) if y.is_floating_point()]
    if results and differentiable:
        with pytest.warns(UserWarning, match="an autograd kernel was not registered"):
            torch.stack([y.double().sum() for y in results]).sum().backward()
    assert all(a.grad is None for a in differentiable)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random24"])
def test_the_first_argument_is_refused_by_function_and_op_alike(name):
    function, arguments = calls(8, 16, torch.float32)[name]
    wrong = arguments[0].to(torch.int32)
    for call in (function, getattr(torch.ops.sparsetrain, name)):
        with pytest.raises(ValueError, match=r"^\w+: .*torch\.int32"):
            call(wrong, *arguments[1:])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("flips24", "random24")])
def test_more_than_two_dimensions_are_refused(name):
    function, arguments = calls(8, 16, torch.float32)[name]
    with pytest.raises(ValueError, match=r"2 dimensions|should be \(|flatten"):
        function(arguments[0][None], *arguments[1:])


@pytest.mark.parametrize(
    "name",
    [
        "select24",
        "sparsify24",
        "pack_into24",
        "squared_relu24",
        "mvue24",
        "quantize24",
        "quantize_across24",
        "quantize_both24",
        "soft_threshold24",
    ],
)
def test_columns_that_are_not_whole_groups_are_refused(name):
    function, arguments = calls(8, 16, torch.float32)[name]
    with pytest.raises(ValueError, match="14 columns are not a multiple of 4; pad"):
        function(arguments[0][:, :14], *arguments[1:])
