"""packed_gelu_mlp on the GPU's kernels against a masked float64 MLP, as accurate as PyTorch."""

import pytest
import torch
from autograd_checks import SELECTIONS, backward, double, gelu_mlp24, normal
from kernel_checks import needs_kernels
from matmul_checks import needs_hopper
from op_calls import OpCalls
from ops_checks import assert_as_accurate_as_torch
from test_gelu_mlp import masks_of, oracle_mlp

from sparsetrain.autograd import packed_gelu_mlp
from sparsetrain.products import NATIVE, Engine, pack
from sparsetrain.reference.gelu import APPROXIMATIONS, Approximate
from sparsetrain.select import EXACT, Selection

# A thread of autograd that begins with a dense product has no CUDA context yet; PyTorch says so.
no_context = "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"
pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper, pytest.mark.filterwarnings(no_context)]

DEVICE = "cuda"
HALVES = [torch.bfloat16, torch.float16]
TOKENS = [(1,), (7,), (3, 65), (4, 197)]
UNROUNDED = 3e-5
"""Of the largest: a sum of some hundred products in float32. Rounding to bfloat16 loses 2**-9."""

selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)


def problem(leading=(4, 197), dtype=torch.bfloat16, bias=True):
    """Inputs and the gradient of the output: 192 features, 384 hidden, weights as trained ones."""
    shapes = [(*leading, 192), (384, 192), (384,), (192, 384), (192,)]
    scales = [1, 192**-0.5, 1, 384**-0.5, 1]
    tensors = [
        (scale * normal(*shape, seed=i)).to(DEVICE, dtype)
        for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    ]
    x, w1, b1, w2, b2 = tensors
    grad = normal(*leading, 192, seed=9).to(DEVICE, dtype)
    return [x, w1, b1 if bias else None, w2, b2 if bias else None], grad


def ours(
    selection: Selection = EXACT,
    approximate: Approximate = "none",
    engine: Engine = "native",
):
    return lambda *t: gelu_mlp24(*t, selection=selection, approximate=approximate, engine=engine)


def assert_accurate(got, inputs, grad, oracle):
    plain = backward(oracle, inputs, grad)
    exact = backward(oracle, double(inputs), grad.double())
    # Of a few tokens it is chance how the roundings of one another's results add up.
    many = inputs[0][..., 0].numel() > 100
    floor = 1e-5 if many else torch.finfo(inputs[0].dtype).eps
    for one, theirs, right in zip(got, plain, exact, strict=True):
        if right is None:
            assert one is None
            continue
        assert one.dtype == theirs.dtype
        assert_as_accurate_as_torch(one, theirs, right, floor=floor)


def assert_unrounded(grad, exact):
    def error(x):
        return ((x.double() - exact).abs().max() / exact.abs().max()).item()

    assert grad.dtype == torch.float32
    assert error(exact.bfloat16()) > 10 * UNROUNDED
    assert error(grad) < UNROUNDED


@selections
@halves
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("leading", TOKENS, ids=str)
def test_it_is_the_masked_mlp_for_any_number_of_tokens(selection, dtype, bias, leading):
    inputs, grad = problem(leading, dtype, bias)
    with OpCalls() as calls:
        got = backward(ours(selection), inputs, grad)
    assert calls.count("matmul24") == (4 if selection.both else 2)
    assert_accurate(got, inputs, grad, oracle_mlp(masks_of(inputs, selection)))


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
@pytest.mark.parametrize("engine", ["masked", "native"])
def test_both_approximations_on_both_engines(approximate, engine):
    inputs, grad = problem()
    oracle = oracle_mlp(masks_of(inputs, EXACT), approximate)
    got = backward(ours(approximate=approximate, engine=engine), inputs, grad)
    assert_accurate(got, inputs, grad, oracle)


def test_float32_is_as_accurate_as_pytorch():
    inputs, grad = problem(dtype=torch.float32)
    oracle = oracle_mlp(masks_of(inputs, EXACT))
    assert_accurate(backward(ours(), inputs, grad), inputs, grad, oracle)


@selections
def test_weights_packed_before_give_the_same_bits(selection):
    inputs, grad = problem()
    packed = [pack(w, None, selection, NATIVE, torch.bfloat16) for w in (inputs[1], inputs[3])]

    def of_packed(*t):
        return packed_gelu_mlp(*t, *packed)

    expected = backward(ours(selection), inputs, grad)
    for one, other in zip(backward(of_packed, inputs, grad), expected, strict=True):
        assert torch.equal(one, other)


@selections
def test_gradients_of_float32_masters_are_not_rounded_to_bfloat16(selection):
    inputs, grad = problem(dtype=torch.float32)

    def low(*t):
        with torch.autocast(DEVICE, torch.bfloat16):
            return ours(selection)(*t)

    with OpCalls(keep=True) as calls:
        out, dx, dw1, db1, dw2, db2 = backward(low, inputs, grad)
    assert out.dtype == torch.bfloat16
    assert dx.dtype == db1.dtype == db2.dtype == torch.float32
    ((dz, h, dz_sums),) = calls.results["gelu_backward"]
    assert torch.equal(db1, dz_sums)
    x, dy = (t.bfloat16().double().flatten(0, -2) for t in (inputs[0], grad))
    assert_unrounded(dw1, dz.double().T @ x)
    assert_unrounded(dw2, dy.T @ h.double())
    assert_unrounded(db2, dy.sum(0))


@pytest.mark.slow
# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
@selections
def test_compiled_it_gives_the_eager_numbers(selection):
    torch.compiler.reset()
    inputs, grad = problem()
    masks = masks_of(inputs, selection)

    def mlp(*t):
        return gelu_mlp24(*t, masks=masks, selection=selection, engine="native")

    compiled = torch.compile(mlp, fullgraph=True)
    expected = backward(mlp, inputs, grad)
    for one, other in zip(backward(compiled, inputs, grad), expected, strict=True):
        torch.testing.assert_close(one, other)
