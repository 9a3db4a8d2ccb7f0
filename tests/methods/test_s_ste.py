"""The products of S-STE, whose weight is softly thresholded, against float64."""

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import (
    PassThrough,
    assert_all_as_accurate,
    backward,
    double,
    normal,
    soft_linear24,
)

from sparsetrain.methods import SSTE
from sparsetrain.ops import mvue24, unpack24
from sparsetrain.patterns import NM
from sparsetrain.products import MASKED
from sparsetrain.select import ROW

SCALE = torch.tensor([1.5])

engines = pytest.mark.parametrize("engine", ["masked", "native"])


def soft(w):
    """1.5 · sign(w) max(|w| − t, 0) with t the second smallest magnitude, by sorting."""
    w_4 = w.detach().unflatten(1, (-1, 4))
    t = w_4.abs().sort(dim=-1).values[..., 1:2]
    return (1.5 * w_4.sign() * (w_4.abs() - t).clamp(min=0)).flatten(1)


def plain_layer(x, w, b):
    return F.linear(x, PassThrough.apply(w, soft(w)), b)


def problem(leading=(6,), bias=True, dtype=torch.float32, outputs=12):
    inputs = [normal(*leading, 16, seed=1, dtype=dtype), normal(outputs, 16, seed=2, dtype=dtype)]
    return [*inputs, normal(outputs, seed=3, dtype=dtype) if bias else None], normal(
        *leading, outputs, seed=4, dtype=dtype
    )


def layer(engine, mvue=False):
    return lambda x, w, b: soft_linear24(x, w, b, SCALE, mvue=mvue, engine=engine)


@engines
def test_a_row_by_hand(engine):
    x = torch.tensor([[1.0, 10, 100, 1000]], requires_grad=True)
    w = torch.tensor([[3.0, -1, 2, 0.5]], requires_grad=True)
    out = soft_linear24(x, w, None, torch.tensor([2.0]), mvue=False, engine=engine)
    out.backward(torch.ones(1, 1))
    assert out.tolist() == [[204]]
    assert x.grad is not None
    assert w.grad is not None
    assert x.grad.tolist() == [[4, 0, 2, 0]]
    assert w.grad.tolist() == [[1, 10, 100, 1000]]


@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_soft_weight(engine, dtype, bias):
    inputs, grad = problem((22,), bias, dtype)
    got = backward(layer(engine), inputs, grad)
    plain = backward(plain_layer, inputs, grad)
    assert_all_as_accurate(got, plain, backward(plain_layer, double(inputs), grad.double()))


@engines
@pytest.mark.parametrize("leading", [(), (7,), (0,), (3, 5), (2, 3, 3)])
def test_any_leading_dimensions(engine, leading):
    inputs, grad = problem(leading)
    got = backward(layer(engine), inputs, grad)
    plain = backward(plain_layer, inputs, grad)
    assert_all_as_accurate(got, plain, backward(plain_layer, double(inputs), grad.double()))


@engines
def test_autocast_thresholds_the_master_weight(engine):
    # In bfloat16 all four are 1, and nothing would be left above the threshold.
    w = torch.tensor([[1.0, 1 + 2**-12, 1 + 2**-10, 1 + 2**-11]])
    big = torch.tensor([4096.0])
    with torch.autocast("cpu", torch.bfloat16):
        out = soft_linear24(torch.eye(4), w, None, big, mvue=False, engine=engine)
    assert out.dtype == torch.bfloat16
    assert out.T.tolist() == [[0, 0, 3, 1]]


def test_the_used_weight_is_2_of_4_along_the_input():
    inputs, _ = problem()
    assert NM(2, 4).holds(soft_linear24(torch.eye(16), inputs[1], None, SCALE).T)


@engines
def test_mvue_multiplies_the_sample_that_the_seed_draws(engine):
    inputs, grad = problem((7,))
    torch.manual_seed(5)
    got = backward(layer(engine, mvue=True), inputs, grad)
    torch.manual_seed(5)
    sample_OT = unpack24(*mvue24(grad, torch.randint(0, 2**62, (1,))))
    torch.testing.assert_close(got[2], sample_OT[:, :7] @ inputs[0])


@engines
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(engine, frozen):
    inputs, grad = problem()
    full = backward(layer(engine), inputs, grad)
    leaves = [t.clone().requires_grad_(i != frozen) for i, t in enumerate(inputs)]
    layer(engine)(*leaves).backward(grad)
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is None) == (i == frozen)
        if i != frozen:
            torch.testing.assert_close(leaf.grad, full[i + 1])


def test_mvue_of_output_features_that_are_not_a_multiple_of_4_is_refused_in_the_forward():
    inputs, _ = problem(outputs=10)
    with pytest.raises(ValueError, match=r"weight has 10 output features.*mvue"):
        layer("masked", mvue=True)(*inputs)
    assert layer("masked")(*inputs).shape == (6, 10)


def test_without_its_scale_it_says_how_to_get_one():
    w = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"no β yet.*load its weights, then call sparsetrain\.at"):
        SSTE().pack(w, None, None, ROW, MASKED, torch.float32)
    with pytest.raises(ValueError, match="no β yet"):
        SSTE().weight24(w, w, None)


def test_a_scale_of_two_numbers_is_refused():
    inputs, _ = problem()
    with pytest.raises(ValueError, match=r"scale: .* should be one element"):
        soft_linear24(inputs[0], inputs[1], None, torch.ones(2))
