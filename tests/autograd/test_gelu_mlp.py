"""packed_gelu_mlp: two linear24 with F.gelu between them, to the last gradient."""

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import (
    SELECTIONS,
    assert_all_as_accurate,
    backward,
    double,
    gelu_mlp24,
    masked_linear,
    normal,
)
from op_calls import OpCalls
from torch._dynamo.testing import CompileCounterWithBackend

from sparsetrain.autograd import linear24, packed_gelu_mlp
from sparsetrain.ops import select24
from sparsetrain.products import Engine, pack, product_of
from sparsetrain.reference.gelu import APPROXIMATIONS, Approximate
from sparsetrain.select import EXACT, ROW, Selection

engines = pytest.mark.parametrize("engine", ["masked", "native"])
selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)
approximations = pytest.mark.parametrize("approximate", APPROXIMATIONS)


def problem(leading=(8,), dtype=torch.float64, bias=True, hidden=16):
    shapes = [(*leading, 12), (hidden, 12), (hidden,), (8, hidden), (8,)]
    x, w1, b1, w2, b2 = (normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes))
    inputs = [x, w1, b1 if bias else None, w2, b2 if bias else None]
    return inputs, normal(*leading, 8, seed=9, dtype=dtype)


def masks_of(inputs, selection):
    return select24(inputs[1], selection.rule), select24(inputs[3], selection.rule)


def oracle_mlp(masks, approximate="none"):
    def mlp(x, w1, b1, w2, b2):
        h = F.gelu(masked_linear(x, w1, b1, masks[0]), approximate=approximate)
        return masked_linear(h, w2, b2, masks[1])

    return mlp


def ours(
    selection: Selection = EXACT,
    approximate: Approximate = "none",
    engine: Engine = "masked",
):
    return lambda *t: gelu_mlp24(*t, selection=selection, approximate=approximate, engine=engine)


def assert_is_the_oracle(inputs, grad, selection, approximate, engine):
    oracle = oracle_mlp(masks_of(inputs, selection), approximate)
    got = backward(ours(selection, approximate, engine), inputs, grad)
    plain = backward(oracle, inputs, grad)
    assert_all_as_accurate(got, plain, backward(oracle, double(inputs), grad.double()))


@engines
@selections
@approximations
@pytest.mark.parametrize("leading", [(8,), (7,), (3, 5)])
def test_the_six_products_are_those_of_the_oracle(engine, selection, approximate, leading):
    assert_is_the_oracle(*problem(leading), selection, approximate, engine)


@engines
@selections
def test_it_is_two_linear_layers_and_gelu(engine, selection):
    inputs, grad = problem((3, 5))

    def layers(x, w1, b1, w2, b2):
        h = F.gelu(linear24(x, w1, b1, selection=selection, engine=engine))
        return linear24(h, w2, b2, selection=selection, engine=engine)

    got = backward(ours(selection, engine=engine), inputs, grad)
    for one, other in zip(got, backward(layers, inputs, grad), strict=True):
        torch.testing.assert_close(one, other)
    # And not the other GELU's.
    tanh = backward(ours(selection, "tanh", engine), inputs, grad)
    assert all(
        (one - other).abs().max() > 1e-5 for one, other in zip(got[:5], tanh[:5], strict=True)
    )


@engines
def test_given_masks_are_used_and_not_chosen(engine):
    inputs, grad = problem()
    masks = masks_of([None, inputs[1].flip(0), None, inputs[3].flip(0)], EXACT)
    got = backward(lambda *t: gelu_mlp24(*t, masks=masks, engine=engine), inputs, grad)
    for one, other in zip(got, backward(oracle_mlp(masks), inputs, grad), strict=True):
        torch.testing.assert_close(one, other)


@engines
@selections
def test_weights_packed_before_are_those_that_multiply(engine, selection):
    inputs, grad = problem()
    packed = [
        pack(w, None, selection, product_of(engine), torch.float64) for w in (inputs[1], inputs[3])
    ]
    expected = backward(ours(selection, engine=engine), inputs, grad)
    others = [inputs[0], torch.zeros_like(inputs[1]), inputs[2], torch.ones_like(inputs[3])]
    got = backward(lambda *t: packed_gelu_mlp(*t, *packed), [*others, inputs[4]], grad)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@engines
@pytest.mark.parametrize("leading", [(), (0,), (1,), (2, 0)])
def test_few_or_no_tokens(engine, leading):
    assert_is_the_oracle(*problem(leading), EXACT, "none", engine)


@engines
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_accurate_as_torch(engine, selection, dtype):
    # Large enough that the largest of the rounding errors is not chance.
    inputs, grad = problem((50,), dtype, hidden=128)
    assert_is_the_oracle(inputs, grad, selection, "none", engine)


@engines
def test_biases_may_be_absent(engine):
    assert_is_the_oracle(*problem(bias=False), EXACT, "none", engine)


@engines
@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (3,), (4,), (3, 4), (0, 3), (0, 1, 2, 4)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_keeps_its_own(engine, trained):
    inputs, grad = problem()
    function = ours(engine=engine)
    full = backward(function, inputs, grad)
    leaves = [t.clone().requires_grad_(i in trained) for i, t in enumerate(inputs)]
    function(*leaves).backward(grad)
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is None) == (i not in trained)
        if i in trained:
            torch.testing.assert_close(leaf.grad, full[i + 1])


def test_the_backward_makes_h_and_the_sums_in_the_pass_of_the_gradient():
    inputs, grad = problem()
    leaves = [t.requires_grad_() for t in inputs]
    with OpCalls() as forward:
        out = gelu_mlp24(*leaves, engine="native")
    with OpCalls() as calls:
        out.backward(grad)
    assert forward.count("gelu") == 1
    assert calls.names.count("gelu_backward") == calls.names.count("column_sums") == 1
    assert calls.count("gelu") == 0


def test_neither_h_nor_a_dense_weight_is_kept_for_the_backward():
    inputs, _ = problem((7,))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gelu_mlp24(*(t.requires_grad_() for t in inputs), engine="native")
    shapes = [tuple(t.shape) for t in kept]
    assert shapes.count((7, 16)) == 1  # z
    assert shapes.count((16, 12)) == shapes.count((8, 16)) == 0


@engines
def test_autocast_gives_bfloat16_outputs_and_float32_gradients(engine):
    inputs, grad = problem((50,), torch.float32, hidden=128)
    oracle = oracle_mlp(masks_of(inputs, EXACT))
    grad = grad.bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        got = backward(ours(engine=engine), inputs, grad)
        plain = backward(oracle, inputs, grad)
    assert got[0].dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in got[1:])
    assert_all_as_accurate(got, plain, backward(oracle, double(inputs), grad.double()))


# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@engines
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
def test_it_compiles_whole_to_the_eager_numbers_twice_at_most(engine, selection):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours(selection, engine=engine), fullgraph=True, backend=counter)
    for tokens in (80, 129, 300):
        inputs, grad = problem((tokens,), torch.float32)
        expected = backward(ours(selection, engine=engine), inputs, grad)
        for one, other in zip(backward(compiled, inputs, grad), expected, strict=True):
            torch.testing.assert_close(one, other)
    assert counter.frame_count <= 2


@engines
def test_hidden_features_that_are_not_a_multiple_of_4_are_refused(engine):
    with pytest.raises(ValueError, match="6 columns are not a multiple of 4"):
        gelu_mlp24(torch.ones(2, 4), torch.ones(6, 4), None, torch.ones(4, 6), None, engine=engine)


@pytest.mark.parametrize(
    ("x", "w1", "w2"), [((2, 8), (4, 4), (4, 4)), ((2, 4), (4, 4), (4, 8)), ((8,), (4, 4), (4, 4))]
)
def test_shapes_that_do_not_fit_are_refused(x, w1, w2):
    with pytest.raises(ValueError, match=r"x \(.*w1 \(4, 4\), w2"):
        gelu_mlp24(torch.ones(x), torch.ones(w1), None, torch.ones(w2), None)


def test_dtypes_that_differ_are_refused_outside_autocast():
    four = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"x is torch\.float16 and weight torch\.float32"):
        gelu_mlp24(four.half(), four, None, four, None)
