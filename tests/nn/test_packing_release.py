"""What lets go of packed weights, and what copies, phases and shared weights make of them."""

import copy
import pickle
from typing import Any

import pytest
import torch
from nn_checks import Mlp, Net, normal, seeded
from op_calls import OpCalls
from packing_checks import (
    BOTH,
    assert_same_bits,
    change,
    engines,
    holding,
    kinds,
    sparse_net,
    step,
)
from torch import nn

import sparsetrain as st

LETS_GO = {
    "update_masks": st.update_masks,
    "set_sparse(False)": lambda model: st.set_sparse(model, False),
    "set_sparse(True)": lambda model: st.set_sparse(model, True),
    "load_sparse_state": lambda model: st.load_sparse_state(model, st.sparse_state(model)),
    "to another dtype": lambda model: model.to(torch.float64),
    "to another device": lambda model: model.to("meta"),
    "release_weights": st.release_weights,
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("how", LETS_GO)
def test_what_is_held_goes_when_it_is_no_longer_that_of_the_layer(how, kind):
    model = sparse_net(kind)
    st.pack_weights(model)
    assert any(holding(model))
    LETS_GO[how](model)
    assert not any(holding(model))


@engines
@pytest.mark.parametrize("kind", BOTH)
def test_a_dense_phase_holds_nothing_and_is_dense(kind, engine):
    model = sparse_net(kind, engine)
    st.pack_weights(model)
    sparse = model(normal(3, 8))
    st.set_sparse(model, False)
    dense = model(normal(3, 8))
    with OpCalls() as calls:
        st.pack_weights(model)
        assert torch.equal(model(normal(3, 8)), dense)
    assert calls.names == []
    assert not any(holding(model))
    st.set_sparse(model, True)
    st.pack_weights(model)
    assert torch.equal(model(normal(3, 8)), sparse)


@engines
@kinds
def test_what_was_packed_in_inference_mode_serves_training(kind, engine):
    model = sparse_net(kind, engine)
    expected = step(model)
    with torch.inference_mode():
        st.pack_weights(model)
        model(normal(3, 8))
    assert all(holding(model)[:1])
    assert_same_bits(step(model), expected)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@engines
@pytest.mark.parametrize("kind", ["transposable", "S-STE", "all"])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_packed_model_computes_the_same_and_is_its_own(how, kind, engine):
    model, x = sparse_net(kind, engine), normal(3, 8)
    st.pack_weights(model)
    expected = model(x)
    other = COPIES[how](model)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.neg_()
    st.pack_weights(other)
    assert (other(x) - expected).abs().max() > 0.1
    assert torch.equal(model(x), expected)


@engines
@pytest.mark.parametrize("apply_masks", [False, True])
@pytest.mark.parametrize("kind", ["transposable", "S-STE", *BOTH[1:]])
def test_a_packed_model_becomes_dense_without_a_trace(kind, apply_masks, engine):
    plain, model = sparse_net(kind, engine), sparse_net(kind, engine)
    st.pack_weights(model)
    st.densify(plain, apply_masks=apply_masks)
    st.densify(model, apply_masks=apply_masks)
    assert torch.equal(model(normal(3, 8)), plain(normal(3, 8)))
    for module in model.modules():
        assert not [name for name in module.__dict__ if name.startswith(("held", "memory"))]


@engines
def test_layers_that_share_a_weight_each_hold_it_and_each_notice_a_change(engine):
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    seeded(model)
    st.sparsify(model, st.Sparsity(), engine=engine)
    expected = step(model)
    st.pack_weights(model)
    assert holding(model) == [True, True]
    assert_same_bits(step(model), expected)
    with torch.no_grad():
        model[0].weight.neg_()
    found = step(model)
    st.release_weights(model)
    assert_same_bits(step(model), found)
    with pytest.raises(AssertionError):
        assert_same_bits(found, expected)


@engines
@pytest.mark.parametrize("sparse", ["fc1", "fc2"])
def test_an_mlp_with_one_sparse_linear_holds_the_other_dense(sparse, engine):
    model: Any = nn.Sequential(seeded(Mlp()))
    both = st.Sparsity(include=("*",), activation=st.Activation24())
    st.sparsify(model, both, engine=engine)
    dense = "fc2" if sparse == "fc1" else "fc1"
    setattr(model[0], dense, getattr(model[0], dense).to_dense())
    expected = step(model)
    st.pack_weights(model)
    assert_same_bits(step(model), expected)
    held = dict(zip(("fc1", "fc2"), model[0].held, strict=False))
    assert torch.equal(held[dense], getattr(model[0], dense).weight)
    assert held[sparse].count_nonzero() == held[sparse].numel() // 2


def test_a_model_without_sparse_layers_is_left_alone():
    model = seeded(Net())
    st.pack_weights(model)
    st.release_weights(model)
    assert model(normal(3, 8)).isfinite().all()


def test_masks_chosen_in_inference_mode_serve_training():
    model = sparse_net()
    with torch.inference_mode():
        st.update_masks(model)
    change(model)
    st.update_masks(model)
    model(normal(3, 8)).sum().backward()


def test_a_copy_of_a_packed_model_holds_nothing():
    model = sparse_net()
    st.pack_weights(model)
    assert any(holding(model))
    assert not any(holding(copy.deepcopy(model)))
