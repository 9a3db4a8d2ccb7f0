"""sparsify and densify on a user's own module: what is converted, what is not, and why."""

import copy

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp, Net, assert_sparse_both_ways, assert_trains, normal, seeded
from torch import nn

import sparsetrain
from sparsetrain.autograd import PORTABLE_ENGINES
from sparsetrain.methods import SRSTE, SSTE, STE, Activation24
from sparsetrain.nn import (
    SparseLinear,
    SparseMlp,
    Sparsity,
    SquaredReLU,
    densify,
    sparse_linears,
    sparsify,
)
from sparsetrain.patterns import NM


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


@pytest.mark.parametrize("engine", PORTABLE_ENGINES)
def test_the_engine_asked_for_is_used_and_reported(engine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = net()
    report = sparsify(model, Sparsity(), engine)
    assert {layer.engine for layer in sparse_linears(model).values()} == {engine}
    assert {row.engine for row in report.converted} == {f"{engine}: asked for"}


def test_auto_says_what_it_chose():
    report = sparsify(net(), Sparsity())
    assert all(row.engine.split(": ")[0] in PORTABLE_ENGINES for row in report.converted)
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


# What stays dense.


def test_features_that_are_not_a_multiple_of_4_stay_dense_with_their_numbers():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 10), nn.Linear(10, 6))
    report = sparsify(model, Sparsity())
    assert reasons(report) == {
        "1": "out_features=10 is not a multiple of 4",
        "2": "in_features=10, out_features=6 is not a multiple of 4",
    }


def test_row_masks_need_input_features_alone():
    model = nn.Sequential(nn.Linear(8, 10))
    sparsify(model, Sparsity(weight=STE("row")))
    assert_trains(model, normal(5, 8))


@pytest.mark.parametrize("method", [STE("row", mvue=True), SSTE(mvue=True)])
def test_mvue_needs_output_features_in_fours_and_what_is_converted_trains(method):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 10))
    report = sparsify(model, Sparsity(weight=method))
    assert reasons(report) == {"1": "out_features=10 is not a multiple of 4"}
    assert_trains(model, normal(5, 8))


def test_a_linear_subclass_stays_dense():
    class Own(nn.Linear):
        pass

    report = sparsify(nn.Sequential(nn.Linear(8, 8), Own(8, 8)), Sparsity())
    assert reasons(report) == {"1": "Own is not a plain nn.Linear"}


# Errors.


def test_a_glob_that_matches_nothing_names_what_there_is():
    with pytest.raises(ValueError, match=r"include: 'mpl\.\*' matches no linear layer.*mlp\.fc1"):
        sparsify(net(), Sparsity(include=("mpl.*",)))
    with pytest.raises(ValueError, match=r"exclude: 'haed' matches no .*it has head"):
        sparsify(net(), Sparsity(exclude=("haed",)))
    with pytest.raises(ValueError, match="the model has none"):
        sparsify(nn.Sequential(nn.Conv2d(4, 4, 1)), Sparsity())


def test_many_candidates_are_counted():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    with pytest.raises(ValueError, match="and 4 more"):
        sparsify(model, Sparsity(include=("head",)))


def test_nothing_convertible_is_an_error_with_the_reasons():
    with pytest.raises(ValueError, match=r"no included layer.*\(0: in_features=6 is not"):
        sparsify(nn.Sequential(nn.Linear(6, 8)), Sparsity())
    with pytest.raises(ValueError, match="it is the model itself: wrap it"):
        sparsify(nn.Linear(8, 8), Sparsity())


@pytest.mark.parametrize("first", [Sparsity(), Sparsity(weight=None, activation=Activation24())])
def test_twice_is_an_error(first):
    model = net()
    sparsify(model, first)
    with pytest.raises(ValueError, match="sparse already: call densify"):
        sparsify(model, Sparsity())


def test_an_unknown_engine_is_an_error_that_changes_nothing():
    model = net()
    with pytest.raises(
        ValueError, match="engine='fast': choose auto or one of masked, native, aten"
    ):
        sparsify(model, Sparsity(), "fast")  # pyright: ignore
    assert list(sparse_linears(model)) == []


def test_a_list_of_globs_may_not_be_a_string():
    with pytest.raises(ValueError, match=r"include='mlp.\*': give a list of globs"):
        Sparsity(include="mlp.*")  # pyright: ignore


def test_a_method_that_was_not_made_is_refused():
    with pytest.raises(ValueError, match=r"weight=STE: give an instance, STE\(\)"):
        Sparsity(weight=STE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"activation=Activation24: give an instance"):
        Sparsity(activation=Activation24)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("weight", [SSTE(), STE("row"), STE(mvue=True)])
def test_six_products_need_masks_for_both_orientations_and_exact_gradients(weight):
    with pytest.raises(ValueError, match="use STE or SRSTE with rule='transposable'"):
        Sparsity(weight=weight, activation=Activation24())


# Notes.


def test_notes_say_what_else_to_do():
    assert "decay_pruned_weights" in str(sparsify(net(), Sparsity(weight=SRSTE())))
    assert "decay_pruned_weights" not in str(sparsify(net(), Sparsity(weight=SRSTE(decay=0.0))))
    assert "β was taken" in str(sparsify(net(), Sparsity(weight=SSTE())))


# And back.


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


def test_the_packages_own_sparsify_takes_a_sparsity_or_a_recipe_not_both():
    with pytest.raises(ValueError, match="give exactly one of the two"):
        sparsetrain.sparsify(net())
    with pytest.raises(ValueError, match="give exactly one of the two"):
        sparsetrain.sparsify(net(), Sparsity(), recipe="vit_b_24")
    assert len(sparsetrain.sparsify(net(), Sparsity()).converted) == 4
