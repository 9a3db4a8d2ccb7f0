"""What a SparseLinear computes, with which mask, and what it says of itself."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import engines, normal, seeded, selections, sparse_linear
from torch import nn

from sparsetrain.autograd import linear24
from sparsetrain.methods import SRSTE, SSTE, STE, WeightMethod
from sparsetrain.nn import set_sparse
from sparsetrain.ops import select24, soft_threshold24
from sparsetrain.products import Engine
from sparsetrain.select import EXACT, ROW, Selection


def sparse_layer(
    method: WeightMethod | None = None, engine: Engine = "masked", selection: Selection = EXACT
) -> Any:
    return sparse_linear(seeded(nn.Linear(8, 12)), method, selection, engine)


@engines
@selections
def test_ste_is_linear24_with_its_selection(engine, selection):
    sparse, x = sparse_layer(STE(), engine, selection), normal(2, 5, 8, seed=3)
    expected = linear24(x, sparse.weight, sparse.bias, selection=selection, engine=engine)
    torch.testing.assert_close(sparse(x), expected)


@engines
def test_s_ste_multiplies_by_its_soft_weight_and_passes_the_gradient_straight_through(engine):
    sparse, x = sparse_layer(SSTE(mvue=False), engine, ROW), normal(2, 5, 8, seed=3)
    soft = soft_threshold24(sparse.weight.detach(), sparse.scale).requires_grad_()
    out, expected = sparse(x), F.linear(x, soft, sparse.bias)
    torch.testing.assert_close(out, expected)
    for y in (out, expected):
        y.square().sum().backward()
    torch.testing.assert_close(sparse.weight.grad, soft.grad)


@pytest.mark.parametrize("method", [STE(mvue=True), SSTE(mvue=True)])
def test_mvue_reaches_the_gradient(method):
    sparse, x = sparse_layer(method, selection=ROW), normal(16, 8, seed=3)
    drawn = []
    for _ in range(2):
        sparse.weight.grad = None
        sparse(x).square().sum().backward()
        drawn.append(sparse.weight.grad)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("method", [STE(), SSTE()])
def test_a_dense_phase_is_the_dense_layer_exactly(method):
    sparse, x = sparse_layer(method), normal(5, 8, seed=3)
    set_sparse(sparse, False)
    assert torch.equal(sparse(x), F.linear(x, sparse.weight, sparse.bias))
    assert torch.equal(sparse.used_weight(), sparse.weight)


@pytest.mark.parametrize(
    ("method", "selection"), [(STE(), EXACT), (STE(), ROW), (SSTE(), ROW)], ids=str
)
def test_the_used_weight_is_what_multiplies(method, selection):
    sparse = sparse_layer(method, selection=selection)
    torch.testing.assert_close(sparse(torch.eye(8)) - sparse.bias, sparse.used_weight().T)


def test_without_an_update_the_mask_follows_the_weight():
    sparse = sparse_layer()
    before = sparse.current_mask()
    with torch.no_grad():
        sparse.weight.copy_(normal(12, 8, seed=7))
    assert sparse.mask is None
    assert not torch.equal(sparse.current_mask(), before)
    assert torch.equal(sparse.current_mask(), select24(sparse.weight.detach(), "transposable"))


def test_after_an_update_the_mask_stays_until_the_next():
    sparse = sparse_layer()
    sparse.update_mask()
    before = sparse.mask.clone()
    with torch.no_grad():
        sparse.weight.copy_(normal(12, 8, seed=7))
    assert torch.equal(sparse.current_mask(), before)
    x = normal(3, 8, seed=3)
    torch.testing.assert_close(sparse(x), linear24(x, sparse.weight, sparse.bias, before))
    sparse.update_mask()
    assert torch.equal(sparse.current_mask(), select24(sparse.weight.detach(), "transposable"))


def masks_of_a_changed_layer() -> Any:
    sparse = sparse_layer()
    sparse.update_mask()
    with torch.no_grad():
        sparse.weight.copy_(normal(12, 8, seed=7))
    return sparse, sparse.mask.clone(), select24(sparse.weight.detach(), "transposable")


def test_evaluation_chooses_from_the_weight_unless_masks_are_frozen():
    sparse, kept, new = masks_of_a_changed_layer()
    x = normal(3, 8, seed=3)
    for frozen, mask in ((False, new), (True, kept)):
        sparse.phase.frozen = frozen
        expected = linear24(x, sparse.weight, sparse.bias, mask)
        assert torch.equal(sparse.eval()(x), expected)
        identity = linear24(torch.eye(8), sparse.weight, None, mask).T
        torch.testing.assert_close(sparse.train().evaluated_weight(), identity)
    assert torch.equal(sparse.mask, kept)
    assert sparse.training


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_drop_the_mask_of_the_old_ones(assign):
    sparse, _, _ = masks_of_a_changed_layer()
    sparse.update_mask()
    assert sparse.flipped is not None
    sparse.load_state_dict({"bias": normal(12)}, strict=False)
    assert sparse.mask is not None
    sparse.load_state_dict(seeded(nn.Linear(8, 12), seed=4).state_dict(), assign=assign)
    assert sparse.mask is sparse.flipped is None


def test_a_new_mask_reaches_a_compiled_layer():
    sparse, x = sparse_layer(), normal(3, 8, seed=3)
    sparse.update_mask()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*should not be instantiated")
        compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), sparse(x))
        before = sparse(x)
        with torch.no_grad():
            sparse.weight.copy_(normal(12, 8, seed=7))
        sparse.update_mask()
        torch.testing.assert_close(compiled(x), sparse(x))
    assert (sparse(x) - before).abs().max() > 0.1


def test_the_layer_prints_its_pattern_engine_and_phase():
    sparse = sparse_layer(SRSTE(decay=6e-5), "native")
    text = "in_features=8, out_features=12, bias=True, 2:4 weight, exact, SR-STE 6e-05"
    assert sparse.extra_repr() == f"{text}, engine=native"
    set_sparse(sparse, False)
    assert sparse.extra_repr() == f"{text}, engine=native, now dense"


# The warning that SR-STE's other half is missing.


def test_training_without_the_decay_warns():
    with pytest.warns(UserWarning, match=r"call sparsetrain\.attach"):
        sparse_layer(SRSTE())(normal(3, 8))


@pytest.mark.parametrize("why", ["eval", "no_grad", "dense", "attached", "decay 0", "STE"])
def test_nothing_warns_where_no_decay_is_due(why):
    sparse = sparse_layer({"decay 0": SRSTE(decay=0.0), "STE": STE()}.get(why, SRSTE())).train(
        why != "eval"
    )
    set_sparse(sparse, why != "dense")
    if why == "attached":
        sparse.phase.held.add(sparse)
    with warnings.catch_warnings(), torch.set_grad_enabled(why != "no_grad"):
        warnings.simplefilter("error")
        sparse(normal(3, 8))
