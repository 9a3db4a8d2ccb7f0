"""sparsify and densify on a user's own module: what is converted, what is not, and why."""

import copy

import pytest
import torch
from nn_checks import (
    ENGINES,
    Mlp,
    Net,
    assert_sparse_both_ways,
    assert_trains,
    engines,
    normal,
    seeded,
)
from torch import nn

import sparsetrain
from sparsetrain.methods import SRSTE, SSTE, STE, Activation24
from sparsetrain.nn import (
    Part,
    SparseLinear,
    SparseMlp,
    Sparsity,
    densify,
    sparse_linears,
    sparsify,
)
from sparsetrain.select import ROW


def net():
    return seeded(Net())


def reasons(report):
    return {row.name: row.reason for row in report.skipped}


# What is converted.


def test_every_linear_layer_is_converted_by_default_and_reported_with_its_shape():
    model = net()
    report = sparsify(model, Sparsity())
    assert [(row.name, row.shape) for row in report.converted] == [
        ("embed", (8, 8)),
        ("mlp.fc1", (16, 8)),
        ("mlp.fc2", (8, 16)),
        ("head", (4, 8)),
    ]
    assert report.skipped == ()
    assert_sparse_both_ways(model)
    assert_trains(model, normal(2, 5, 8))


def test_include_and_exclude_are_globs_over_names_and_the_rest_says_why_it_is_dense():
    model = net()
    report = sparsify(model, Sparsity(include=("mlp.*", "head"), exclude=("*fc2",)))
    assert list(sparse_linears(model)) == ["mlp.fc1", "head"]
    assert reasons(report) == {"embed": "not named by include", "mlp.fc2": "excluded"}


@engines
def test_the_engine_asked_for_is_used_and_reported(engine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = net()
    report = sparsify(model, Sparsity(), engine)
    assert {layer.product.name for layer in sparse_linears(model).values()} == {engine}
    assert {row.engine for row in report.converted} == {f"{engine}: asked for"}


def test_auto_says_what_it_chose():
    report = sparsify(net(), Sparsity())
    assert all(row.engine.split(": ")[0] in ENGINES for row in report.converted)
    assert all(len(row.engine.split(": ")[1]) > 0 for row in report.converted)


def test_parameters_are_the_same_objects_before_and_after():
    model = net()
    before = dict(model.named_parameters())
    sparsify(model, Sparsity(activation=Activation24()))
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize("activation", [None, Activation24()])
def test_state_dicts_are_those_of_the_dense_model_both_ways_and_strict(activation):
    dense, sparse = net(), net()
    sparsify(sparse, Sparsity(activation=activation))
    sparsetrain.update_masks(sparse)
    assert list(sparse.state_dict()) == list(dense.state_dict())
    other = seeded(Net(), seed=1)
    sparse.load_state_dict(other.state_dict(), strict=True)
    dense.load_state_dict(sparse.state_dict(), strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(dense.state_dict()[name], value)


def test_shared_modules_are_replaced_everywhere():
    model = net()
    model.again = model.embed
    report = sparsify(model, Sparsity())
    assert model.again is model.embed
    assert isinstance(model.again, SparseLinear)
    assert len(report.converted) == 4
    densify(model)
    assert model.again is model.embed
    assert type(model.again) is nn.Linear


def test_two_layers_may_share_a_weight():
    model = net()
    model.twin = seeded(nn.Linear(8, 8))
    model.twin.weight = model.embed.weight
    sparsify(model, Sparsity())
    assert model.twin.weight is model.embed.weight
    assert torch.equal(model.twin.used_weight(), model.embed.used_weight())


def test_a_converted_model_copies():
    model = net()
    sparsify(model, Sparsity(activation=Activation24()))
    x = normal(3, 8)
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x))


def test_dense_is_a_report_and_no_change():
    model = net()
    report = sparsify(model, Sparsity(weight=None))
    assert report.converted == ()
    assert "Nothing to make sparse" in str(report)
    assert list(sparse_linears(model)) == []


# Activations.


def test_activations_alone_leave_the_weights_dense_and_say_which_layers_are_in_no_mlp():
    model = net()
    report = sparsify(model, Sparsity(weight=None, activation=Activation24()))
    assert isinstance(model.mlp, SparseMlp)
    assert type(model.mlp.fc1) is nn.Linear
    assert [(row.name, row.shape) for row in report.converted] == [("mlp", (8, 16, 8))]
    assert set(reasons(report)) == {"embed", "head"}
    assert "it is in none" in reasons(report)["head"]
    assert any("squared ReLU" in note for note in report.notes)
    assert_trains(model, normal(2, 5, 8))


def test_weights_and_activations_make_six_sparse_products():
    model = net()
    report = sparsify(model, Sparsity(activation=Activation24()))
    assert isinstance(model.mlp, SparseMlp)
    assert isinstance(model.mlp.fc1, SparseLinear)
    assert [row.name for row in report.converted] == ["embed", "mlp.fc1", "mlp.fc2", "head", "mlp"]
    assert_sparse_both_ways(model)
    assert_trains(model, normal(2, 5, 8))


def test_an_mlp_that_cannot_take_activations_says_why():
    model = seeded(nn.Sequential(Mlp(), Mlp()))
    model[1].drop1.p = 0.1
    report = sparsify(model, Sparsity(weight=None, activation=Activation24()))
    assert isinstance(model[0], SparseMlp)
    assert type(model[1]) is Mlp
    assert "drops out between act and fc2" in reasons(report)["1.fc1"]


@pytest.mark.parametrize("weight", [None, STE()])
def test_no_mlp_for_activations_is_an_error_that_changes_nothing(weight):
    model = net()
    model.mlp.drop1.p = 0.1
    with pytest.raises(ValueError, match=r"no MLP can take it \(mlp: it drops out"):
        sparsify(model, Sparsity(weight=weight, activation=Activation24()))
    assert list(sparse_linears(model)) == []
    with pytest.raises(ValueError, match="no MLP is included"):
        sparsify(net(), Sparsity(include=("head",), weight=weight, activation=Activation24()))
    with pytest.raises(ValueError, match="it is the model itself: wrap it"):
        sparsify(Mlp(), Sparsity(weight=weight, activation=Activation24()))


def test_each_part_has_its_own_method_and_the_first_that_names_a_layer_holds():
    model = net()
    parts = {
        "first": Part(include=("mlp.fc1",), selection=ROW),
        "dense": Part(include=("head",), weight=None),
        "rest": Part(weight=STE(mvue=True)),
    }
    report = sparsify(model, Sparsity(parts=parts))
    assert {row.name: row.runs for row in report.converted} == {
        "embed": "2:4 weight, exact, STE, MVUE",
        "mlp.fc1": "2:4 weight, row, STE",
        "mlp.fc2": "2:4 weight, exact, STE, MVUE",
    }
    assert [row.name for row in report.skipped] == ["head"]
    assert_trains(model, normal(2, 5, 8))


def test_the_packages_own_sparsify_takes_a_sparsity_or_a_recipe_not_both():
    with pytest.raises(ValueError, match="give exactly one of the two"):
        sparsetrain.sparsify(net())
    with pytest.raises(ValueError, match="give exactly one of the two"):
        sparsetrain.sparsify(net(), Sparsity(), recipe="vit_b_24")
    assert len(sparsetrain.sparsify(net(), Sparsity()).converted) == 4


def test_notes_say_what_else_to_do():
    assert "attach(model, optimizer)" in str(sparsify(net(), Sparsity(weight=SRSTE())))
    assert "attach" not in str(sparsify(net(), Sparsity(weight=SRSTE(decay=0.0))))
    assert "β is taken" in str(sparsify(net(), Sparsity(weight=SSTE())))


def test_handles_of_hooks_remove_them_from_what_took_a_layers_place():
    net, seen = seeded(Net()), []

    def hook(layer, *_):
        seen.append(type(layer))

    handles = [m.register_forward_hook(hook) for m in (net.mlp, net.mlp.fc1)]
    sparsify(net, Sparsity(include=("mlp*",)), on_cpu=True)
    net(normal(6, 8))
    assert len(seen) == 2
    densify(net)
    for handle in handles:
        handle.remove()
    net(normal(6, 8))
    assert len(seen) == 2
