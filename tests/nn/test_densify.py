"""densify gives the dense model back, as it was or with the zeros written into its weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp, Net, assert_trains, normal, seeded
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from sparsetrain.methods import SRSTE, SSTE, STE, Activation24
from sparsetrain.nn import (
    Part,
    Sparsity,
    SquaredReLU,
    densify,
    set_sparse,
    sparse_linears,
    sparsify,
    update_masks,
)
from sparsetrain.patterns import NM, Unstructured


def net():
    return seeded(Net())


def test_densify_gives_the_dense_model_with_its_master_weights():
    model, x = net(), normal(3, 8)
    expected, weights = model(x), copy.deepcopy(model.state_dict())
    sparsify(model, Sparsity())
    assert (model(x) - expected).abs().max() > 0.1
    assert densify(model) is model
    assert {type(m) for m in model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    assert torch.equal(model(x), expected)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", [STE(), SRSTE(decay=0.0), SSTE()])
def test_densify_with_masks_is_exactly_2_of_4_and_computes_what_was_trained(method):
    model, x = net(), normal(3, 8)
    sparsify(model, Sparsity(weight=method))
    expected = model(x)
    densify(model, apply_masks=True)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert NM(2, 4).holds(module.weight)
            assert module.weight.count_nonzero() <= module.weight.numel() // 2
    torch.testing.assert_close(model(x), expected)


def test_densify_of_an_mlp_keeps_squared_relu():
    model, x = net(), normal(3, 8)
    sparsify(model, Sparsity(weight=None, activation=Activation24()))
    densify(model)
    assert type(model.mlp) is Mlp
    assert isinstance(model.mlp.act, SquaredReLU)
    hidden = F.relu(model.mlp.fc1(model.embed(x))).square()
    assert torch.equal(model(x), model.head(model.mlp.fc2(hidden)))


def test_the_round_trip_can_be_made_again():
    model = net()
    for _ in range(2):
        sparsify(model, Sparsity(activation=Activation24()))
        assert_trains(model, normal(2, 5, 8))
        densify(model)


@pytest.mark.parametrize("frozen", [False, True])
def test_densify_with_masks_writes_what_an_evaluation_multiplies_by(frozen):
    model, x = net(), normal(3, 8)
    sparsify(model, Sparsity())
    update_masks(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(*parameter.shape, seed=7))
    model.embed.phase.frozen = frozen
    trained, expected = model(x), model.eval()(x)
    assert torch.equal(trained, expected) == frozen
    densify(model.train(), apply_masks=True)
    torch.testing.assert_close(model(x), expected)


def test_densify_in_a_dense_phase_leaves_every_weight():
    model = net()
    weights = copy.deepcopy(model.state_dict())
    sparsify(model, Sparsity())
    set_sparse(model, False)
    densify(model, apply_masks=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_densify_of_a_weight_that_is_computed_since_is_refused_and_changes_nothing():
    model = net()
    sparsify(model, Sparsity())
    register_parametrization(model.mlp.fc2, "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"mlp\.fc2\.weight is computed since sparsify"):
        densify(model)
    assert len(sparse_linears(model)) == 4


def tied():
    """Two layers that share one weight."""
    model = seeded(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    model[1].weight = model[0].weight
    return model


def test_densify_writes_the_soft_threshold_into_a_tied_weight_once():
    model, x = tied(), normal(3, 8)
    sparsify(model, Sparsity(weight=SSTE()))
    expected = model(x)
    assert torch.equal(densify(model, apply_masks=True)(x), expected)


def test_densify_of_a_weight_tied_since_to_what_is_sparse_in_another_way_changes_nothing():
    model = seeded(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    parts = {"a": Part(("0",)), "b": Part(("1",), pattern=Unstructured(0.1))}
    sparsify(model, Sparsity(parts=parts))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"0\.weight is tied .* to 1, which multiplies by other"):
        densify(model, apply_masks=True)
    assert torch.equal(model[0].weight, before)
    assert set(sparse_linears(model)) == {"0", "1"}
