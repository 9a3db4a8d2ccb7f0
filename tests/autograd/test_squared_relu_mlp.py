"""packed_squared_relu_mlp: six products against a float64 MLP in plain autograd."""

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import (
    SELECTIONS,
    PassThrough,
    assert_all_as_accurate,
    backward,
    double,
    normal,
    squared_relu_mlp24,
)
from op_calls import OpCalls

from sparsetrain.nn.mlp import FIRST, SECOND
from sparsetrain.ops import select24
from sparsetrain.patterns import NM
from sparsetrain.products import pack, product_of
from sparsetrain.reference.masks24 import select_mask24, unpack_bits
from sparsetrain.reference.pack24 import pad_rows24
from sparsetrain.select import EXACT, ROW

MASKED_WEIGHTS = [(False, False), (True, False), (False, True), (True, True)]


engines = pytest.mark.parametrize("engine", ["masked", "native"])
selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)
exact_and_row = pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)


def problem(leading=(8,), dtype=torch.float64, bias=True, hidden=16):
    shapes = [(*leading, 12), (hidden, 12), (hidden,), (8, hidden), (8,)]
    x, w1, b1, w2, b2 = (normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes))
    inputs = [x, w1, b1 if bias else None, w2, b2 if bias else None]
    return inputs, normal(*leading, 8, seed=9, dtype=dtype)


def weight_masks(inputs, masked):
    pairs = zip((inputs[1], inputs[3]), masked, strict=True)
    return tuple(select24(w, EXACT.rule) if sparse else None for w, sparse in pairs)


def under(mask, w):
    if mask is None:
        return w
    kept = unpack_bits(mask, w.shape[1])
    return PassThrough.apply(w, torch.where(kept, w.detach(), 0))


def activation_masks(inputs, mask1, selection):
    """The masks that h has in the dtype of the inputs: along features, and along tokens."""
    x, w1, b1 = inputs[:3]
    h = F.linear(x.reshape(-1, x.shape[-1]), under(mask1, w1).detach(), b1).relu().square()
    rows = select_mask24(h, selection.rule)
    if selection.both:
        return rows, rows
    return rows, select_mask24(pad_rows24(h).T, "row").T[: h.shape[0]]


def oracle_mlp(masks_of_weights, masks_of_h):
    """Rows of h serve the output, grad x and grad b1; columns of h both weight gradients."""
    mask1, mask2 = masks_of_weights

    def path(x, w1, b1, w2, b2, kept):
        h = F.linear(x, under(mask1, w1), b1).relu().square()
        return F.linear(h * kept.view(h.shape), under(mask2, w2), b2)

    def stop(t):
        return None if t is None else t.detach()

    def mlp(x, w1, b1, w2, b2):
        rows, columns = masks_of_h
        y = path(x, stop(w1), b1, stop(w2), b2, rows)
        for_weights = path(stop(x), w1, stop(b1), w2, stop(b2), columns)
        return y + for_weights - for_weights.detach()

    return mlp


def ours(masks, selection, engine):
    return lambda *t: squared_relu_mlp24(*t, masks=masks, selection=selection, engine=engine)


def assert_is_the_oracle(inputs, grad, masked, selection, engine):
    masks = weight_masks(inputs, masked)
    oracle = oracle_mlp(masks, activation_masks(inputs, masks[0], selection))
    got = backward(ours(masks, selection, engine), inputs, grad)
    plain = backward(oracle, inputs, grad)
    assert_all_as_accurate(got, plain, backward(oracle, double(inputs), grad.double()))
    return got


@engines
@selections
@pytest.mark.parametrize("masked", MASKED_WEIGHTS)
@pytest.mark.parametrize("leading", [(8,), (7,), (3, 5)])
def test_the_six_products_are_those_of_the_oracle(engine, selection, masked, leading):
    inputs, grad = problem(leading)
    got = assert_is_the_oracle(inputs, grad, masked, selection, engine)
    # None of it is the dense MLP's.
    dense = backward(
        lambda x, w1, b1, w2, b2: F.linear(F.linear(x, w1, b1).relu().square(), w2, b2),
        inputs,
        grad,
    )
    for sparse, other in list(zip(got, dense, strict=True))[:5]:
        assert (sparse - other).abs().max() > 0.01


@engines
@pytest.mark.parametrize("leading", [(), (0,), (1,), (2, 0)])
def test_few_or_no_tokens(engine, leading):
    inputs, grad = problem(leading)
    assert_is_the_oracle(inputs, grad, (True, True), EXACT, engine)


@engines
@exact_and_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_accurate_as_torch(engine, selection, dtype):
    # Large enough that the largest of the rounding errors is not chance.
    inputs, grad = problem((50,), dtype, hidden=128)
    assert_is_the_oracle(inputs, grad, (True, True), selection, engine)


@engines
def test_biases_may_be_absent(engine):
    inputs, grad = problem(bias=False)
    assert_is_the_oracle(inputs, grad, (True, False), EXACT, engine)


# Masks that are chosen from the weights now.


@engines
@pytest.mark.parametrize("chosen", [s for s in SELECTIONS if s.both], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_selection_gives_the_bits_of_the_masks_it_chooses(engine, chosen, dtype):
    inputs, grad = problem((7,), dtype)
    masks = [select24(w, chosen.rule) for w in (inputs[1], inputs[3])]
    expected = backward(ours(masks, EXACT, engine), inputs, grad)
    for one in ((chosen, chosen), (chosen, masks[1]), (masks[0], chosen)):
        got = backward(ours(one, EXACT, engine), inputs, grad)
        for result, other in zip(got, expected, strict=True):
            assert torch.equal(result, other)


@engines
@pytest.mark.parametrize(
    ("weights", "products", "one_pass"),
    [
        (torch.float32, torch.float32, True),
        (torch.float32, torch.bfloat16, True),
        (torch.bfloat16, torch.bfloat16, True),
        (torch.float16, torch.bfloat16, False),  # which no kernel converts
    ],
)
def test_a_selection_packs_in_one_pass_and_masks_are_of_the_weights_before_rounding(
    engine, weights, products, one_pass
):
    # All are 1 once they are rounded to bfloat16.
    w1, w2 = ((1 + normal(*s, seed=1) / 1000).to(weights) for s in ((16, 12), (8, 16)))
    masks = [select24(w, EXACT.rule) for w in (w1, w2)]

    def packed(masks):
        product = product_of(engine)
        return [
            pack(w, mask, EXACT, product, products, forms)
            for w, mask, forms in zip((w1, w2), masks, (FIRST, SECOND), strict=True)
        ]

    with OpCalls() as calls:
        got = packed([None, None])
    if engine == "masked":
        assert calls.names == 2 * ["select24", "mask24"]
    else:
        assert calls.names == 2 * ["pack_into24"] if one_pass else 2 * ["select24", "pack_into24"]
    for one, other in zip(got, packed(masks), strict=True):
        assert one.spec == other.spec
        for form, expected in zip(one.tensors, other.tensors, strict=True):
            assert (form is None) == (expected is None)
            if form is not None and expected is not None:
                assert torch.equal(form, expected)


@engines
@exact_and_row
def test_weights_2_of_4_along_their_rows_alone_multiply_under_their_masks(engine, selection):
    inputs, grad = problem((7,))
    masks = [select24(w, "row") for w in (inputs[1], inputs[3])]
    oracle = oracle_mlp(masks, activation_masks(inputs, masks[0], selection))
    got = backward(ours((ROW, ROW), selection, engine), inputs, grad)
    assert_all_as_accurate(got, *[backward(oracle, inputs, grad)] * 2)


@engines
def test_a_token_by_hand(engine):
    # z is x, so h of every token is [1, 4, 9, 0] and two are kept: 4 and 9.
    x = torch.tensor([[1.0, 2, 3, -4]], requires_grad=True)
    w1, w2 = torch.eye(4, requires_grad=True), torch.eye(4, requires_grad=True)
    y = squared_relu_mlp24(x, w1, None, w2, None, selection=ROW, engine=engine)
    y.backward(torch.tensor([[10.0, 10, 100, 10]]))
    assert y.tolist() == [[0, 4, 9, 0]]
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 40, 600, 0]]
    # Along tokens the only token is among the largest of its four, so all of h counts.
    assert w2.grad is not None
    assert w2.grad[0].tolist() == [10, 40, 90, 0]
    assert w1.grad is not None
    assert w1.grad[0].tolist() == [20, 40, 60, -80]


@engines
def test_one_transposable_mask_serves_both_orientations(engine):
    inputs, _ = problem((8,))
    x, w1, b1, _, _ = inputs
    h = squared_relu_mlp24(x, w1, b1, torch.eye(16).double(), None, engine=engine)
    assert NM(2, 4).holds(h)
    assert NM(2, 4).holds(h.T)
    assert h.count_nonzero() > 0


@engines
@pytest.mark.parametrize("masked", [(False, False), (True, True)])
@pytest.mark.parametrize("frozen", range(5))
def test_what_is_frozen_gets_no_gradient_and_the_rest_keeps_its_own(engine, masked, frozen):
    inputs, grad = problem()
    function = ours(weight_masks(inputs, masked), EXACT, engine)
    full = backward(function, inputs, grad)
    leaves = [t.clone().requires_grad_(i != frozen) for i, t in enumerate(inputs)]
    function(*leaves).backward(grad)
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is None) == (i == frozen)
        if i != frozen:
            torch.testing.assert_close(leaf.grad, full[i + 1])


@engines
@exact_and_row
def test_an_infinite_gradient_of_an_activation_that_is_zero_touches_nothing(engine, selection):
    inputs, grad = problem()
    inputs[2][5] = -1e6  # unit 5 is never active,
    inputs[3][:, 5] = 1e308  # and its gradient overflows.
    assert (grad @ inputs[3]).isinf().any()
    for result in backward(ours((None, None), selection, engine), inputs, grad):
        assert result.isfinite().all()


@engines
@pytest.mark.parametrize("masked", [(False, False), (True, True)])
def test_autocast_gives_bfloat16_outputs_and_float32_gradients(engine, masked):
    inputs, grad = problem((22,), torch.float32)
    masks = weight_masks(inputs, masked)
    low = [t.bfloat16() for t in inputs]
    low_masks = activation_masks([low[0], under(masks[0], inputs[1]).bfloat16(), low[2]], None, ROW)
    oracle = oracle_mlp(masks, low_masks)
    grad = grad.bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        got = backward(ours(masks, ROW, engine), inputs, grad)
        plain = backward(oracle, inputs, grad)
    assert got[0] is not None
    assert got[0].dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in got[1:])
    assert_all_as_accurate(got, plain, backward(oracle, double(inputs), grad.double()))


@engines
def test_hidden_features_that_are_not_a_multiple_of_4_are_refused(engine):
    with pytest.raises(ValueError, match="6 columns are not a multiple of 4"):
        squared_relu_mlp24(
            torch.ones(2, 4), torch.ones(6, 4), None, torch.ones(4, 6), None, engine=engine
        )


@pytest.mark.parametrize(
    ("x", "w1", "w2"), [((2, 8), (4, 4), (4, 4)), ((2, 4), (4, 4), (4, 8)), ((8,), (4, 4), (4, 4))]
)
def test_shapes_that_do_not_fit_are_refused(x, w1, w2):
    with pytest.raises(ValueError, match=r"x \(.*w1 \(4, 4\), w2"):
        squared_relu_mlp24(torch.ones(x), torch.ones(w1), None, torch.ones(w2), None)


def test_dtypes_that_differ_are_refused_outside_autocast():
    four = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"x is torch\.float16 and weight torch\.float32"):
        squared_relu_mlp24(four.half(), four, None, four, None)
