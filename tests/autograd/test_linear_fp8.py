"""Layers in fp8 against float64 of the same quantized operands; grad weight is not quantized."""

import pytest
import torch
from autograd_checks import (
    SELECTIONS,
    PassThrough,
    assert_all_as_accurate,
    backward,
    double,
    normal,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from sparsetrain.autograd import linear24
from sparsetrain.ops import mask24, select24
from sparsetrain.products import FP8, MASKED, NATIVE, Forms, Packed, pack, product_of
from sparsetrain.reference.quantize import SCALINGS, dequantize, quantize
from sparsetrain.select import EXACT, ROW

E4M3 = torch.float8_e4m3fn
FORMATS = [*(FP8(scaling) for scaling in SCALINGS), FP8(power_of_two=True)]

formats = pytest.mark.parametrize("format", FORMATS, ids=str)
selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)


def rounded(x: Tensor, format: FP8, scaling: str | None = None) -> Tensor:
    """Give what x stands for once it is quantized, in its own dtype."""
    q, scales = quantize(x, E4M3, scaling or format.scaling, format.power_of_two)  # pyright: ignore
    return dequantize(q, scales).to(x.dtype)


class Rounding(torch.autograd.Function):
    """x @ w.T of the operands as the forward rounds them, and of the gradient as the backward
    does; grad weight is of x and of the gradient as they are. format: of the backward, None where
    its product is dense."""

    @staticmethod
    def forward(ctx, x, w, rounded_x, w_rows, w_columns, format):
        ctx.save_for_backward(x, w_columns)
        ctx.format = format
        return rounded_x @ w_rows.T

    @staticmethod
    def backward(ctx, grad):
        x, w_columns = ctx.saved_tensors
        read = grad
        if ctx.format is not None:
            read = rounded(grad.float(), ctx.format, "row").to(grad.dtype)
        return read @ w_columns, grad.T @ x, None, None, None, None


def rounding_linear(x, w, b, selection, format):
    """A layer in plain autograd on operands rounded to fp8, in the dtype of x."""
    w32 = w.detach().float()
    a = mask24(w32, select24(w32, selection.rule))
    rows, columns = rounded(a, format), a
    if selection.both:
        columns = rounded(a.T.contiguous(), format).T
    rounded_x = rounded(x.detach().float(), format, "row")
    operands = (t.to(x.dtype) for t in (rounded_x, rows, columns))
    of_backward = format if selection.both else None
    out = Rounding.apply(x, PassThrough.apply(w, w.detach()), *operands, of_backward)
    return out if b is None else out + b


def problem(tokens, features, dtype=torch.float32, bias=True):
    outputs, inputs = features
    x = normal(tokens, inputs, seed=1, dtype=dtype)
    w = normal(outputs, inputs, seed=2, dtype=dtype) * normal(outputs, 1, seed=5, dtype=dtype)
    b = normal(outputs, seed=3, dtype=dtype) if bias else None
    return [x, w, b], normal(tokens, outputs, seed=4, dtype=dtype)


@formats
@selections
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_quantized_operands(format, selection, bias):
    inputs, grad = problem(22, (140, 260), bias=bias)

    def layer(x, w, b):
        return linear24(x, w, b, selection=selection, engine="native", format=format)

    def oracle(x, w, b):
        return rounding_linear(x, w, b, selection, format)

    got, plain = backward(layer, inputs, grad), backward(oracle, inputs, grad)
    assert_all_as_accurate(got, plain, backward(oracle, double(inputs), grad.double()))
    exact = backward(lambda x, w, b: linear24(x, w, b, selection=selection), inputs, grad)
    for one, other in list(zip(got, exact, strict=True))[: 2 if selection.both else 1]:
        assert 0.01 < (one - other).norm() / other.norm() < 0.06
    assert torch.equal(got[2], exact[2]), "grad weight is not quantized"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_results_are_16_bits_and_the_weight_is_quantized_from_float32(dtype):
    (x, w, b), grad = problem(9, (20, 64))
    with torch.autocast("cpu", dtype):
        out = linear24(x.requires_grad_(), w, b, engine="native", format=FP8())
    assert out.dtype == dtype
    expected = rounding_linear(x.detach().to(dtype).double(), w.double(), None, EXACT, FP8())
    torch.testing.assert_close(out.double(), expected + b.to(dtype), rtol=2**-7, atol=2**-7)
    out.backward(grad.to(dtype))
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_gradient_that_is_not_finite_stays_visible_in_its_token_alone():
    (x, w, _), grad = problem(5, (8, 16))
    grad[3, 2] = float("inf")
    _, grad_x, *_ = backward(
        lambda x, w: linear24(x, w, engine="native", format=FP8()), [x, w], grad
    )
    assert grad_x.isnan().all(dim=1).tolist() == [False, False, False, True, False]
    assert grad_x.isnan().any(dim=1).sum() == 1


# The packed value.


def there(packed: Packed) -> set[str]:
    return {n for n, t in zip(Packed._fields[1:], packed.tensors, strict=True) if t is not None}


@formats
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
@pytest.mark.parametrize(
    "forms", [Forms(True, True, False), Forms(False, True, True), Forms(True, False, True)], ids=str
)
def test_a_packed_value_keeps_what_its_products_read(format, selection, forms):
    product = product_of("native", format)
    x = normal(70, 64, seed=1)
    packed = pack(x, None, selection, product, torch.bfloat16, forms)
    rows = {"values", "meta", "scales"} if forms.rows else set()
    columns = {"values_t", "meta_t", "scales_t"} if forms.columns and selection.both else set()
    dense = {"dense"} if forms.dense or (forms.columns and not selection.both) else set()
    if forms.dense and selection.both and format.scaling == "row":
        dense = {"dense8", "scales8"}
    assert there(packed) == rows | columns | dense
    assert packed.dtype == torch.bfloat16
    assert there(packed.for_b()) == dense if forms.dense else True
    kept = packed.for_t_mm()
    assert there(kept) == (columns or (rows if "dense8" in dense else {"dense"}))
    b = normal(70, 24, seed=2, dtype=torch.bfloat16)
    assert torch.equal(kept.t_mm(b), packed.t_mm(b))
    assert packed.t_mm(b, dtype=torch.float32).dtype == torch.float32


def test_of_rows_alone_t_mm_multiplies_the_quantized_rows():
    x, b = normal(12, 64, seed=1), normal(12, 5, seed=2)
    packed = pack(x, None, EXACT, product_of("native", FP8()), torch.float32)
    rows = Packed(packed.spec, packed.values, packed.meta, scales=packed.scales)
    expected = rounded(mask24(x, select24(x, "transposable")), FP8()).T @ b
    torch.testing.assert_close(rows.for_t_mm().t_mm(b), expected)


def test_beside_packed_columns_mm_multiplies_the_quantized_rows():
    x, b = normal(12, 64, seed=1), normal(64, 5, seed=2)
    forms = Forms(rows=False, columns=True, dense=True)
    packed = pack(x, None, EXACT, product_of("native", FP8()), torch.float32, forms)
    expected = rounded(mask24(x, select24(x, "transposable")), FP8()) @ b
    torch.testing.assert_close(packed.mm(b), expected)


def test_what_has_no_product_in_fp8_is_refused():
    with pytest.raises(ValueError, match="scaling='column': choose one of row, block, tensor"):
        FP8("column")  # pyright: ignore
    with pytest.raises(ValueError, match=r"engine='masked': format=FP8\(.* by engine='native'"):
        product_of("masked", FP8())
    (x, w, b), _ = problem(3, (8, 16), torch.float64)
    with pytest.raises(ValueError, match=r"format=FP8\(.*no results in torch.float64; use float32"):
        linear24(x, w, b, engine="native", format=FP8())
    assert product_of("native") == NATIVE
    assert product_of("masked") == MASKED


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_layer_in_fp8_compiles_in_one_graph():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def layer(x, w, b):
        return linear24(x, w, b, engine="native", format=FP8("block"))

    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for tokens in (9, 9, 9):
        inputs, grad = problem(tokens, (20, 64))
        for one, other in zip(
            backward(compiled, inputs, grad), backward(layer, inputs, grad), strict=True
        ):
            torch.testing.assert_close(one, other)
    assert counter.frame_count == 1
