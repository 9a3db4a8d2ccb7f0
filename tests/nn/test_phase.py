"""Phases, masks and state between steps."""

import copy
import io

import pytest
import torch
from nn_checks import Net, layers, normal, seeded
from torch import nn

from sparsetrain.methods import SSTE, STE, Activation24
from sparsetrain.nn import (
    Sparsity,
    load_sparse_state,
    set_sparse,
    sparse_state,
    sparsify,
    update_masks,
)
from sparsetrain.ops import select24
from sparsetrain.reference.soft_threshold24 import soft_scale24
from sparsetrain.select import ROW


def sparse_net(weight=None, activation=None):
    model = seeded(Net())
    sparsify(model, Sparsity(weight=weight or STE(), activation=activation))
    return model


def scramble(model, seed=1):
    with torch.no_grad():
        for i, layer in enumerate(layers(model).values()):
            layer.weight.copy_(normal(*layer.weight.shape, seed=100 * seed + i))


# Phases.


@pytest.mark.parametrize("activation", [None, Activation24()])
def test_a_dense_phase_is_the_dense_model_and_a_sparse_one_is_not(activation):
    model, x = sparse_net(activation=activation), normal(3, 8)
    sparse = model(x)
    set_sparse(model, False)
    dense = model(x)
    expected = model.embed.to_dense()(x)
    hidden = model.mlp.act(nn.functional.linear(expected, model.mlp.fc1.weight, model.mlp.fc1.bias))
    out = nn.functional.linear(hidden, model.mlp.fc2.weight, model.mlp.fc2.bias)
    assert torch.equal(dense, nn.functional.linear(out, model.head.weight))
    set_sparse(model, True)
    torch.testing.assert_close(model(x), sparse)
    assert (sparse - dense).abs().max() > 0.1


def test_the_scale_of_s_ste_is_fixed_when_training_starts():
    model = sparse_net(SSTE())
    scales = {n: layer.scale.clone() for n, layer in layers(model).items()}
    for name, layer in layers(model).items():
        assert torch.equal(scales[name], soft_scale24(layer.weight.detach()))
    scramble(model)
    model(normal(3, 8))
    update_masks(model)
    set_sparse(model, True)  # it is already
    for name, layer in layers(model).items():
        assert torch.equal(layer.scale, scales[name])


def test_entering_a_sparse_phase_renews_the_scale_of_s_ste():
    model = sparse_net(SSTE())
    set_sparse(model, False)
    scramble(model)
    set_sparse(model, True)
    for layer in layers(model).values():
        assert torch.equal(layer.scale, soft_scale24(layer.weight.detach()))


# Masks.


def test_update_masks_chooses_every_mask_from_the_weight_now():
    model = sparse_net()
    update_masks(model)
    scramble(model)
    update_masks(model)
    for layer in layers(model).values():
        assert torch.equal(layer.mask, select24(layer.weight.detach(), "transposable"))


def test_unchanged_weights_flip_nothing():
    model = sparse_net()
    update_masks(model)
    assert all(layer.flipped is None for layer in layers(model).values())
    update_masks(model)
    assert all(int(layer.flipped) == 0 for layer in layers(model).values())


def test_one_swap_flips_two_bits():
    model = seeded(nn.Sequential(nn.Linear(8, 4)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([4.0, 3, 2, 1]).repeat(4, 2))
    sparsify(model, Sparsity(selection=ROW))
    update_masks(model)
    with torch.no_grad():
        model[0].weight[2, 5] = 1.5  # third of its four now, after 2
    update_masks(model)
    assert int(model[0].flipped) == 2


def test_dense_phases_keep_a_virtual_mask():
    model = sparse_net()
    update_masks(model)
    set_sparse(model, False)
    scramble(model)
    update_masks(model)
    assert all(int(layer.flipped) > 0 for layer in layers(model).values())


def test_an_update_keeps_the_mask_tensor_so_that_a_cuda_graph_sees_it():
    model = sparse_net()
    update_masks(model)
    before = [layer.mask for layer in layers(model).values()]
    scramble(model)
    update_masks(model)
    for mask, layer in zip(before, layers(model).values(), strict=True):
        assert layer.mask is mask


# State.


@pytest.mark.parametrize("method", [STE(), SSTE()])
def test_state_and_state_dict_together_restore_the_model_exactly(method):
    model, x = sparse_net(method), normal(3, 8)
    update_masks(model)
    scramble(model)  # so that the masks are not those of the weights
    set_sparse(model.head, False)
    buffer = io.BytesIO()
    torch.save({"weights": model.state_dict(), "sparse": sparse_state(model)}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    other = seeded(Net(), seed=5)
    sparsify(other, Sparsity(weight=method))
    other.load_state_dict(saved["weights"])
    assert not torch.equal(other(x), model(x))
    load_sparse_state(other, saved["sparse"])
    assert torch.equal(other(x), model(x))
    assert not layers(other)["head"].sparse
    scramble(model, 2)
    scramble(other, 2)
    update_masks(model)
    update_masks(other)
    for ours, theirs in zip(*(layers(m).values() for m in (model, other)), strict=True):
        assert int(ours.flipped) == int(theirs.flipped)


def test_a_state_without_masks_restores_none():
    model, other = sparse_net(), sparse_net()
    update_masks(other)
    load_sparse_state(other, sparse_state(model))
    assert all(layer.mask is None for layer in layers(other).values())


def test_the_phase_of_mlps_is_in_the_state():
    model = sparse_net(activation=Activation24())
    set_sparse(model, False)
    state = copy.deepcopy(sparse_state(model))
    assert state["mlp"] == {
        "phase": "dense_warmup",
        "trained": "dense_warmup",
        "step": 0,
        "masks_step": -1,
        "frozen": False,
        "checked": False,
    }
    set_sparse(model, True)
    load_sparse_state(model, state)
    assert not model.mlp.sparse
    assert not model.mlp.fc1.sparse


def test_a_state_of_version_0_1_still_loads():
    model, other = sparse_net(activation=Activation24()), sparse_net(activation=Activation24())
    update_masks(model)
    state = {
        name: {"mask": layer.mask, "scale": None, "sparse": name != "head"}
        for name, layer in layers(model).items()
    }
    scramble(model)
    scramble(other)
    load_sparse_state(other, state | {"mlp": {"sparse": True}})
    set_sparse(model.head, False)
    assert torch.equal(other(normal(3, 8)), model(normal(3, 8)))


def test_a_loaded_state_is_a_copy():
    model, other = sparse_net(), sparse_net()
    update_masks(model)
    state = sparse_state(model)
    load_sparse_state(other, state)
    scramble(other)
    before = model.embed.mask.clone()
    update_masks(other)
    assert torch.equal(model.embed.mask, before)


def test_a_state_of_other_layers_is_refused_by_name():
    state = sparse_state(sparse_net())
    other = seeded(Net())
    sparsify(other, Sparsity(exclude=("head",)))
    with pytest.raises(ValueError, match=r"they differ in \['head'\] \(1 in all\)"):
        load_sparse_state(other, state)
    assert all(layer.mask is None for layer in layers(other).values())
