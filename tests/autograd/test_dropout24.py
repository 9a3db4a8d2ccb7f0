"""2:4 dropout: what is kept, its gradient, and the products of the linear layer behind it."""

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import normal
from op_calls import OpCalls

from sparsetrain.autograd import dropout24, dropout24_linear
from sparsetrain.nn.mlp import SECOND
from sparsetrain.ops import select24
from sparsetrain.patterns import NM
from sparsetrain.products import pack, product_of, unpruned
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import EXACT

engines = pytest.mark.parametrize("engine", ["masked", "native"])


def factors(shape, seed=0):
    """0 or 2 for each place, as the dropout of that seed multiplies."""
    torch.manual_seed(seed)
    return dropout24(torch.ones(shape, dtype=torch.float64))


def test_two_of_four_are_kept_in_both_orientations_and_doubled():
    kept = factors((3, 8, 16))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    for x in (kept.flatten(0, 1), kept.flatten(0, 1).T):
        assert NM(2, 4).holds(x)
    assert kept.mean() == 1.0


def test_the_expectation_is_the_input_and_every_place_is_kept_half_the_time():
    mean = torch.stack([factors((8, 8), seed) for seed in range(100)]).mean(0)
    assert (mean - 1).abs().max() < 5 / 100**0.5


def test_the_seed_fixes_the_mask_and_another_step_has_another():
    assert torch.equal(factors((8, 8), 1), factors((8, 8), 1))
    assert not torch.equal(factors((8, 8), 1), factors((8, 8), 2))
    torch.manual_seed(0)
    x = torch.ones(8, 8)
    assert not torch.equal(dropout24(x), dropout24(x))


@pytest.mark.parametrize("shape", [(8,), (5, 12), (2, 3, 8), (0, 8)], ids=str)
def test_the_gradient_is_that_of_the_factors(shape):
    x, grad = normal(*shape, seed=0).requires_grad_(), normal(*shape, seed=1)
    expected = factors(shape, 3)
    torch.manual_seed(3)
    y = dropout24(x)
    y.backward(grad)
    torch.testing.assert_close(y, (expected * x).to(x.dtype))
    torch.testing.assert_close(x.grad, (expected * grad).to(x.dtype))


@engines
@pytest.mark.parametrize("leading", [(8,), (7,), (2, 6), ()], ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense weight", "2:4 weight"])
def test_the_linear_layer_behind_it_has_the_values_and_gradients_of_both(engine, leading, sparse):
    x, w, b = (
        normal(*shape, seed=i, dtype=torch.float64).requires_grad_()
        for i, shape in enumerate([(*leading, 16), (8, 16), (8,)])
    )
    grad, product = normal(*leading, 8, seed=9, dtype=torch.float64), product_of(engine)
    packed, used = unpruned(w.detach(), product, w.dtype), w.detach()
    if sparse:
        mask = select24(w.detach(), EXACT.rule)
        packed = pack(w.detach(), mask, EXACT, product, w.dtype, SECOND)
        used = used * unpack_bits(mask, 16)
    factor = factors((*leading, 16), 5)
    dense = [t.detach().clone().requires_grad_() for t in (x, used, b)]
    expected = F.linear(factor * dense[0], *dense[1:])
    expected.backward(grad)
    torch.manual_seed(5)
    y = dropout24_linear(x, w, b, packed)
    y.backward(grad)
    torch.testing.assert_close(y, expected)
    for got, want in zip((x, w, b), dense, strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def test_its_native_products_are_sparse_forward_and_for_the_weight():
    x, w = normal(8, 16, seed=0).requires_grad_(), normal(8, 16, seed=1).requires_grad_()
    packed = unpruned(w.detach(), product_of("native"), w.dtype)
    with OpCalls() as forward:
        y = dropout24_linear(x, w, None, packed)
    with OpCalls() as backward:
        y.sum().backward()
    assert (forward.count("matmul24"), backward.count("matmul24")) == (1, 1)


@pytest.mark.parametrize("shape", [(), (4, 6)], ids=str)
def test_features_that_have_no_groups_of_four_are_refused(shape):
    with pytest.raises(ValueError, match=r"2:4 dropout keeps two of every four .* use nn\.Dropout"):
        dropout24(torch.ones(shape))
