"""linear24: three products against a masked dense layer in float64."""

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import (
    SELECTIONS,
    assert_all_as_accurate,
    backward,
    double,
    masked_linear,
    normal,
)

from sparsetrain.autograd import linear24
from sparsetrain.ops import mvue24, select24, unpack24
from sparsetrain.patterns import NM
from sparsetrain.reference.masks24 import pack_bits, unpack_bits
from sparsetrain.select import EXACT, ROW

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

engines = pytest.mark.parametrize("engine", ["masked", "native"])
selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)


def problem(leading=(6,), bias=True, dtype=torch.float32, features=(12, 16)):
    outputs, inputs = features
    x = normal(*leading, inputs, seed=1, dtype=dtype)
    w = normal(outputs, inputs, seed=2, dtype=dtype)
    b = normal(outputs, seed=3, dtype=dtype) if bias else None
    return [x, w, b], normal(*leading, outputs, seed=4, dtype=dtype)


def assert_is_the_masked_layer(inputs, grad, selection, engine, mask=None):
    bits = select24(inputs[1], selection.rule) if mask is None else mask

    def layer(x, w, b):
        return linear24(x, w, b, mask, selection=selection, engine=engine)

    got = backward(layer, inputs, grad)
    plain = backward(lambda x, w, b: masked_linear(x, w, b, bits), inputs, grad)
    oracle = backward(lambda x, w, b: masked_linear(x, w, b, bits), double(inputs), grad.double())
    assert_all_as_accurate(got, plain, oracle)


@engines
def test_a_row_by_hand(engine):
    x = torch.tensor([[1.0, 10, 100, 1000]], requires_grad=True)
    w = torch.tensor([[1.0, -4, 3, 2]], requires_grad=True)
    out = linear24(x, w, torch.tensor([0.5]), selection=ROW, engine=engine)
    out.backward(torch.tensor([[2.0]]))
    assert out.tolist() == [[260.5]]
    assert x.grad is not None
    assert w.grad is not None
    assert x.grad.tolist() == [[0, -8, 6, 0]]
    assert w.grad.tolist() == [[2, 20, 200, 2000]]


@engines
@selections
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_masked_layer(engine, selection, dtype, bias):
    assert_is_the_masked_layer(*problem((22,), bias, dtype, (20, 48)), selection, engine)


@engines
@pytest.mark.parametrize("leading", [(), (1,), (5,), (7,), (0,), (3, 5), (2, 0), (2, 3, 3)])
def test_any_leading_dimensions_and_any_number_of_tokens(engine, leading):
    assert_is_the_masked_layer(*problem(leading), EXACT, engine)


@engines
@selections
def test_output_features_need_not_be_a_multiple_of_4(engine, selection):
    assert_is_the_masked_layer(*problem(features=(10, 8)), selection, engine)


@engines
def test_x_and_the_gradient_may_be_strided(engine):
    inputs, grad = problem((8,))
    x = inputs[0].T.contiguous().T
    got = backward(lambda x, w, b: linear24(x, w, b, engine=engine), inputs, grad)
    out = linear24(x, inputs[1].requires_grad_(), inputs[2], engine=engine)
    out.backward(grad.T.contiguous().T)
    torch.testing.assert_close(out, got[0])
    torch.testing.assert_close(inputs[1].grad, got[2])


@engines
def test_a_gradient_may_be_one_number_expanded(engine):
    inputs, grad = problem((3, 5))
    expected = backward(lambda *t: linear24(*t, engine=engine), inputs, torch.ones_like(grad))
    w = inputs[1].clone().requires_grad_()
    linear24(inputs[0], w, inputs[2], engine=engine).sum().backward()
    torch.testing.assert_close(w.grad, expected[2])


@engines
def test_a_given_mask_is_used_as_it_is(engine):
    inputs, grad = problem()
    other = select24(normal(12, 16, seed=9), "transposable")
    assert not torch.equal(other, select24(inputs[1], "transposable"))
    assert_is_the_masked_layer(inputs, grad, EXACT, engine, other)


@engines
def test_the_weight_that_multiplies_is_2_of_4_both_ways(engine):
    inputs, _ = problem()
    used_IO = linear24(torch.eye(16), inputs[1], engine=engine)
    assert NM(2, 4).holds(used_IO)
    assert NM(2, 4).holds(used_IO.T)
    assert used_IO.count_nonzero() == used_IO.numel() // 2


@engines
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_the_rest_keeps_its_own(engine, frozen):
    inputs, grad = problem()
    full = backward(lambda *t: linear24(*t, engine=engine), inputs, grad)
    leaves = [t.clone().requires_grad_(i != frozen) for i, t in enumerate(inputs)]
    linear24(*leaves, engine=engine).backward(grad)
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is None) == (i == frozen)
        if i != frozen:
            torch.testing.assert_close(leaf.grad, full[i + 1])


def test_nothing_is_kept_for_a_backward_that_cannot_come():
    inputs, _ = problem()
    with torch.no_grad():
        assert not linear24(*[t.requires_grad_() for t in inputs]).requires_grad


@engines
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_pruned_weight_that_is_not_finite_touches_nothing(engine, bad):
    inputs, grad = problem((5,))
    mask = select24(inputs[1], "transposable")
    expected = backward(lambda x, w, b: linear24(x, w, b, mask, engine=engine), inputs, grad)
    row, column = (~unpack_bits(mask, 16)).nonzero()[3].tolist()
    inputs[1][row, column] = bad
    got = backward(lambda x, w, b: linear24(x, w, b, mask, engine=engine), inputs, grad)
    for ours, finite in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, finite, rtol=0, atol=0)


@engines
def test_the_backward_uses_the_mask_of_its_own_forward(engine):
    inputs, grad = problem()
    mask = select24(inputs[1], "transposable")
    expected = backward(lambda x, w, b: linear24(x, w, b, mask, engine=engine), inputs, grad)
    changing = mask.clone()
    x, w, b = (t.clone().requires_grad_() for t in inputs)
    out = linear24(x, w, b, changing, engine=engine)
    changing.copy_(select24(normal(12, 16, seed=9), "transposable"))
    out.backward(grad)
    torch.testing.assert_close(x.grad, expected[1])


# Autocast.


@engines
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_accurate_as_that_of_a_dense_layer(engine, bias, dtype):
    inputs, grad = problem((22,), bias, features=(20, 48))
    grad = grad.to(dtype).float()
    bits = select24(inputs[1], "transposable")
    with torch.autocast("cpu", dtype):
        got = backward(lambda x, w, b: linear24(x, w, b, engine=engine), inputs, grad)
        plain = backward(lambda x, w, b: masked_linear(x, w, b, bits), inputs, grad)
    oracle = backward(lambda x, w, b: masked_linear(x, w, b, bits), double(inputs), grad.double())
    assert got[0] is not None
    assert got[0].dtype == dtype
    assert all(t is None or t.dtype == torch.float32 for t in got[1:])
    assert_all_as_accurate(got, plain, oracle)


@engines
def test_autocast_chooses_the_mask_from_the_master_weight(engine):
    # In bfloat16 all four are 1 and a tie would keep the first two.
    w = torch.tensor([[1.0, 1 + 2**-12, 1 + 2**-10, 1 + 2**-11]])
    assert (w.bfloat16() == 1).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear24(torch.eye(4), w, selection=ROW, engine=engine).T.tolist() == [[0, 0, 1, 1]]


@engines
def test_autocast_leaves_float64_as_it_is(engine):
    inputs, grad = problem(dtype=torch.float64)
    expected = backward(lambda *t: linear24(*t, engine=engine), inputs, grad)
    with torch.autocast("cpu", torch.bfloat16):
        got = backward(lambda *t: linear24(*t, engine=engine), inputs, grad)
    assert all(map(torch.equal, got, expected))
    assert got[0].dtype == torch.float64


def test_under_autocast_the_dtypes_may_differ():
    inputs, _ = problem()
    with torch.autocast("cpu", torch.bfloat16):
        out = linear24(inputs[0].bfloat16(), inputs[1], inputs[2])
    assert out.dtype == torch.bfloat16


# MVUE.


@engines
@pytest.mark.parametrize("tokens", [8, 7])
def test_mvue_multiplies_the_sample_that_the_seed_draws(engine, tokens):
    inputs, grad = problem((tokens,))
    torch.manual_seed(5)
    got = backward(lambda *t: linear24(*t, mvue=True, engine=engine), inputs, grad)
    torch.manual_seed(5)
    sample_OT = unpack24(*mvue24(grad, torch.randint(0, 2**62, (1,))))
    assert NM(2, 4).holds(sample_OT)
    torch.testing.assert_close(got[2], sample_OT[:, :tokens] @ inputs[0])
    exact = backward(lambda *t: linear24(*t, engine=engine), inputs, grad)
    for i in (0, 1, 3):
        torch.testing.assert_close(got[i], exact[i])


@pytest.mark.slow
def test_the_mean_of_mvue_is_the_exact_gradient_within_five_standard_errors():
    inputs, grad = problem((6,), features=(8, 8))
    exact = backward(linear24, inputs, grad)[2]
    torch.manual_seed(0)
    draws = torch.stack(
        [backward(lambda *t: linear24(*t, mvue=True), inputs, grad)[2] for _ in range(800)]
    )
    error = (draws.mean(dim=0) - exact).abs()
    assert (error <= 5 * draws.std(dim=0) / 800**0.5 + 1e-5).all()
    assert draws.std(dim=0).max() > 0


def test_mvue_repeats_under_a_seed_and_goes_on_without():
    inputs, grad = problem((16,))

    def sampled():
        return backward(lambda *t: linear24(*t, mvue=True), inputs, grad)[2]

    torch.manual_seed(3)
    first, second = sampled(), sampled()
    torch.manual_seed(3)
    again = sampled()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_mvue_of_no_tokens_is_zero():
    inputs, grad = problem((0,))
    got = backward(lambda *t: linear24(*t, mvue=True), inputs, grad)
    assert torch.equal(got[2], torch.zeros(12, 16))


# Complaints.


@engines
@selections
def test_input_features_that_are_not_a_multiple_of_4_are_refused(engine, selection):
    with pytest.raises(ValueError, match="6 columns are not a multiple of 4"):
        linear24(torch.ones(2, 6), torch.ones(8, 6), selection=selection, engine=engine)


@pytest.mark.parametrize("x", [torch.ones(2, 4), torch.ones(4), torch.tensor(1.0)])
def test_shapes_that_do_not_fit_are_refused_by_name(x):
    with pytest.raises(ValueError, match=rf"x \({', '.join(map(str, x.shape))}.*weight \(4, 8\)"):
        linear24(x, torch.ones(4, 8))


def test_dtypes_that_differ_are_refused_outside_autocast():
    with pytest.raises(ValueError, match=r"x is torch\.bfloat16 and weight torch\.float32"):
        linear24(torch.ones(2, 4).bfloat16(), torch.ones(4, 4))


@engines
def test_a_mask_of_the_wrong_shape_is_refused(engine):
    with pytest.raises(ValueError, match=r"mask: shape \(4, 2\) should be \(4, 1\)"):
        linear24(torch.ones(2, 8), torch.ones(4, 8), mask=torch.zeros(4, 2).byte(), engine=engine)


def test_a_mask_that_keeps_three_of_a_column_is_refused_by_the_packed_engine():
    kept = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    with pytest.raises(ValueError, match="mask: a column of the 4x4 tile at row 0, column 0"):
        linear24(torch.ones(2, 4), torch.ones(4, 4), mask=pack_bits(kept), engine="native")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine='fast': choose one of masked, native, aten"):
        linear24(torch.ones(2, 4), torch.ones(4, 4), engine="fast")  # pyright: ignore


@engines
def test_mvue_of_output_features_that_are_not_a_multiple_of_4_is_refused_in_the_forward(engine):
    with pytest.raises(ValueError, match=r"weight has 10 output features.*mvue"):
        linear24(torch.ones(2, 8), torch.ones(10, 8), selection=ROW, mvue=True, engine=engine)


def test_a_weight_with_nan_is_refused_when_anomalies_are_looked_for():
    w = torch.ones(4, 4)
    w[1, 2] = float("nan")
    with (
        pytest.warns(UserWarning, match="Anomaly Detection"),
        torch.autograd.detect_anomaly(),
        pytest.raises(ValueError, match="holds 1 NaN"),
    ):
        linear24(torch.ones(2, 4), w)


def test_the_dense_layer_differs():
    # So that none of the above passes by running dense.
    inputs, _ = problem()
    assert (linear24(*inputs) - F.linear(*inputs)).abs().max() > 0.1


def test_a_weight_in_8_bits_is_refused_with_what_to_do():
    layer = torch.nn.Linear(8, 8).to(torch.float8_e4m3fn)
    for on in (False, True):
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=on),
            pytest.raises(
                ValueError, match=r"^weight is torch.float8_e4m3fn, .*FP8\(\)\) multiplies"
            ),
        ):
            linear24(torch.ones(2, 8), layer.weight)
