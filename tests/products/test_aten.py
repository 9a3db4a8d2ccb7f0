"""Product `aten`: the packed form through PyTorch's own 2:4 product, against masked products."""

from typing import Any

import pytest
import torch
from aten_checks import aten_on_cpu
from autograd_checks import (
    SELECTIONS,
    assert_all_as_accurate,
    backward,
    double,
    normal,
    soft_linear24,
    squared_relu_mlp24,
)
from ops_checks import assert_as_accurate_as_torch

from sparsetrain.autograd import linear24
from sparsetrain.ops import matmul24, pack24, select24, sparsify24, unpack24
from sparsetrain.products.aten import aten_mm
from sparsetrain.select import EXACT, ROW

DTYPES = [torch.bfloat16, torch.float16]
TOKENS = [1, 31, 64, 129]
SCALE = torch.tensor([1.25])


def need_capability_8():
    if torch.cuda.get_device_capability()[0] != 8:
        pytest.skip("PyTorch's CUTLASS 2:4 products refuse other GPUs than compute capability 8.x")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """A CPU, where the op is that of aten_checks.py, and a GPU, where it is PyTorch's."""
    if request.param == "cuda":
        need_capability_8()
        yield "cuda"
        return
    library = aten_on_cpu()
    yield "cpu"
    library._destroy()


def packed(rows, columns, dtype, seed=0):
    x = normal(rows, columns, seed=seed, dtype=dtype)
    return pack24(x, select24(x, "row"))


def on(device, *tensors: Any) -> list[Any]:
    return [None if t is None else t.to(device) for t in tensors]


def check_product(device, values, meta, b, bias, transpose_out):
    """Hold the product on the device to the accuracy of PyTorch's dense one on the CPU."""
    a = unpack24(values, meta)[:, : b.shape[0]]
    plain, exact = a @ b, a.double() @ b.double()
    if transpose_out:
        plain, exact = plain.T, exact.T
    if bias is not None:
        plain, exact = plain + bias, exact + bias.double()
    values, meta, bias = on(device, values, meta, bias)
    got = aten_mm(values, meta, b.to(device), bias, transpose_out)
    assert got.dtype == values.dtype
    assert_as_accurate_as_torch(got.cpu(), plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose_out", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_any_rows_any_columns_and_either_layout_of_b(device, dtype, transpose_out, with_bias):
    for M, N, K in [(1, 1, 64), (31, 7, 64), (32, 8, 192), (70, 33, 128), (96, 129, 320)]:
        values, meta = packed(M, K, dtype)
        bias = normal(M if transpose_out else N, seed=2, dtype=dtype) if with_bias else None
        b = normal(K, N, seed=1, dtype=dtype)
        odd = normal(K + 1, 2 * N + 1, seed=1, dtype=dtype)[1:, 1::2]
        shifted = torch.cat([b.new_zeros(1), b.flatten()])[1:].view(K, N)
        for layout in (b, b.T.contiguous().T, odd, shifted):
            check_product(device, values, meta, layout, bias, transpose_out)


@pytest.mark.parametrize("tokens", TOKENS)
def test_tokens_that_were_padded_in_packing_need_not_be_there(device, tokens):
    x = normal(tokens, 64, seed=0, dtype=torch.bfloat16)
    _, _, values_t, meta_t, _, _ = sparsify24(x, "row")
    b = normal(tokens, 24, seed=1, dtype=torch.bfloat16)
    check_product(device, values_t, meta_t, b, None, False)


def test_nothing_times_something_is_nothing(device):
    values, meta = on(device, *packed(64, 64, torch.float16))
    empty = torch.empty(64, 0, dtype=torch.float16, device=device)
    assert aten_mm(values, meta, empty, None, True).shape == (0, 64)


def assert_is_masked(function, inputs, grad, device):
    """Hold engine `aten` to the accuracy of `masked`: output and gradients, 16 bits."""

    def run(engine, tensors, grad):
        results = backward(lambda *t: function(*t, engine=engine), on(device, *tensors), grad)
        return on("cpu", *results)

    grad = grad.to(device)
    exact = run("masked", double(inputs), grad.double())
    assert_all_as_accurate(run("aten", inputs, grad), run("masked", inputs, grad), exact)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_the_products_of_a_linear_layer(device, selection, bias, tokens):
    shapes = [(tokens, 64), (192, 64), (192,)]
    x, w, b = (normal(*s, seed=i, dtype=torch.bfloat16) for i, s in enumerate(shapes))
    grad = normal(tokens, 192, seed=3, dtype=torch.bfloat16)
    assert_is_masked(
        lambda *t, engine: linear24(*t, selection=selection, engine=engine),
        [x, w, b if bias else None],
        grad,
        device,
    )


@pytest.mark.parametrize("layer", ["mvue", "soft"])
def test_an_mvue_sample_and_a_soft_weight(device, layer):
    def function(x, w, engine):
        if layer == "mvue":
            return linear24(x, w, mvue=True, engine=engine)
        return soft_linear24(x, w, None, SCALE.to(device), mvue=True, engine=engine)

    x, w = (normal(*s, seed=i).bfloat16().to(device) for i, s in enumerate([(70, 64), (128, 64)]))
    grad = normal(70, 128, seed=3, dtype=torch.bfloat16).to(device)
    results = []
    for engine in ("aten", "masked"):
        torch.manual_seed(0)  # both draw the same sample
        results.append(backward(lambda x, w, e=engine: function(x, w, e), [x, w], grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(
            got, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())
        )


@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_six_products_of_an_mlp(device, selection, masked):
    dtype = torch.bfloat16
    shapes = [(70, 64), (128, 64), (128,), (64, 128), (64,)]
    inputs = [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]
    # Small whole numbers: all sums are exact, so that every engine chooses the same of z.
    inputs[:3] = [x.mul(2).round().clamp(-3, 3) for x in inputs[:3]]
    first, second = (
        select24(inputs[i], "transposable").to(device) if masked else None for i in (1, 3)
    )
    assert_is_masked(
        lambda *t, engine: squared_relu_mlp24(
            *t, masks=(first, second), selection=selection, engine=engine
        ),
        inputs,
        normal(70, 64, seed=9, dtype=dtype),
        device,
    )


# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_whole(device):
    x = normal(70, 64, seed=0).to(device, torch.bfloat16)
    w = normal(128, 64, seed=1).to(device, torch.bfloat16)
    grad = normal(70, 128, seed=2).to(device, torch.bfloat16)

    def layer(x, w):
        return linear24(x, w, engine="aten")

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = backward(layer, [x, w], grad)
    for got, want in zip(backward(compiled, [x, w], grad), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_float32_is_multiplied_dense_with_zeros():
    x, w = normal(6, 8, seed=0), normal(12, 8, seed=1)
    grad = normal(6, 12, seed=2)
    got = backward(lambda *t: linear24(*t, engine="aten"), [x, w], grad)
    expected = backward(lambda *t: linear24(*t, engine="masked"), [x, w], grad)
    assert all(map(torch.equal, got, expected))


def test_what_it_cannot_multiply_is_refused_with_a_way_out():
    values, meta = packed(32, 60, torch.bfloat16)
    b = torch.ones(60, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r'60 columns for b of 60 .* 64 columns.*engine="masked"'):
        aten_mm(values, meta, b, None, False)
    with pytest.raises(ValueError, match=r'float32 has no product in engine="aten".*autocast'):
        aten_mm(values.float(), meta, b.float(), None, False)


def test_it_is_the_same_product_as_the_op(device):
    values, meta = packed(64, 128, torch.bfloat16)
    b = normal(128, 16, seed=1, dtype=torch.bfloat16).mul(2).round()
    values = values.mul(2).round()
    expected = matmul24(values, meta, b)
    values, meta, b = on(device, values, meta, b)
    got = aten_mm(values, meta, b, None, False)
    assert torch.equal(got.cpu(), expected)
