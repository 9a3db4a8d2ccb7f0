"""What sparsify leaves dense or refuses, and what it says of it."""

import copy

import pytest
import torch
from nn_checks import Net, assert_trains, normal, seeded
from timm.layers.mlp import Mlp
from torch import nn

from sparsetrain.methods import SSTE, STE, Activation24
from sparsetrain.nn import Sparsity, densify, sparse_linears, sparsify
from sparsetrain.select import ROW


def net():
    return seeded(Net())


def reasons(report):
    return {row.name: row.reason for row in report.skipped}


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
    sparsify(model, Sparsity(selection=ROW))
    assert_trains(model, normal(5, 8))


@pytest.mark.parametrize("method", [STE(mvue=True), SSTE(mvue=True)])
def test_mvue_needs_output_features_in_fours_and_what_is_converted_trains(method):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 10))
    report = sparsify(model, Sparsity(weight=method, selection=ROW))
    assert reasons(report) == {"1": "out_features=10 is not a multiple of 4"}
    assert_trains(model, normal(5, 8))


class Forward(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


class Router(nn.Linear):
    def top(self, x):
        return self(x).topk(2)


class Scaled(nn.Linear):
    """Another way to be made, and nothing else."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.std = 0.02


def test_a_subclass_of_linear_stays_dense_where_it_does_anything_else():
    more, buffered = Scaled(8, 8), Scaled(8, 8)
    more.gain = nn.Parameter(torch.ones(8))
    buffered.register_buffer("codes", torch.ones(8))
    model = nn.Sequential(nn.Linear(8, 8), Forward(8, 8), Router(8, 8), more, buffered)
    plain = "is not a plain nn.Linear: it has"
    assert reasons(sparsify(model, Sparsity())) == {
        "1": f"Forward {plain} a forward of its own",
        "2": f"Router {plain} top",
        "3": f"Scaled {plain} gain",
        "4": f"Scaled {plain} codes",
    }


def test_a_subclass_of_linear_that_is_only_made_in_another_way_is_sparse_and_comes_back():
    model = nn.Sequential(Scaled(8, 8))
    assert sparsify(model, Sparsity()).skipped == ()
    assert_trains(model, normal(5, 8))
    densify(model)
    assert type(model[0]) is Scaled
    assert model[0].std == 0.02


# Errors.


def test_an_mlp_that_shares_its_layers_with_another_is_told():
    mlps = nn.Module()
    mlps.first, mlps.second = Mlp(16, 32, 16), Mlp(16, 32, 16)
    mlps.second.fc1 = mlps.first.fc1
    report = sparsify(mlps, Sparsity(("*",), activation=Activation24()), engine="masked")
    assert reasons(report)["second"] == "its activations stay dense: it shares first.fc1"


def test_an_mlp_whose_two_layers_are_one_takes_no_activation():
    mlp = Mlp(8, 8)
    mlp.fc2 = mlp.fc1
    model = nn.Sequential(Mlp(8, 16), mlp)
    report = sparsify(copy.deepcopy(model), Sparsity(activation=Activation24()))
    assert reasons(report)["1"] == "its activations stay dense: its fc1 and fc2 are one layer"
    with pytest.raises(ValueError, match=r"no MLP can take it \(0: its fc1 and fc2 are one layer"):
        sparsify(nn.Sequential(mlp), Sparsity(activation=Activation24()))


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
    with pytest.raises(ValueError, match=r"\(0 and 11 more: in_features=6[^;]* of 4\)"):
        sparsify(nn.Sequential(*(nn.Linear(6, 6) for _ in range(12))), Sparsity())
    with pytest.raises(ValueError, match=r"; 4: in_features=22.* of 4; and 2 more reasons\)"):
        sparsify(nn.Sequential(*(nn.Linear(6 + 2 * i, 6) for i in range(0, 14, 2))), Sparsity())
    with pytest.raises(ValueError, match=r"no included layer.*\(0: in_features=6 is not"):
        sparsify(nn.Sequential(nn.Linear(6, 8)), Sparsity())
    with pytest.raises(ValueError, match="it is the model itself: wrap it"):
        sparsify(nn.Linear(8, 8), Sparsity())


def test_without_a_linear_layer_the_largest_other_matrices_are_named():
    blocks = nn.ModuleList([nn.Conv1d(4, 8, 1), nn.Conv1d(4, 8, 1)])
    model = nn.ModuleDict({"words": nn.Embedding(64, 4), "blocks": blocks})
    with pytest.raises(ValueError, match=r"none \(blocks\.\* \(2\): Conv1d is no nn\.Linear\)"):
        sparsify(model, Sparsity())
    model["head"] = nn.Linear(4, 64, bias=False)
    model["head"].weight = model["words"].weight
    with pytest.raises(ValueError, match=r"\(head: .* tied to words, .*; blocks\.\* \(2\): Conv1d"):
        sparsify(model, Sparsity())


class Linear(nn.Linear):
    def forward(self, input):
        return super().forward(input) * 2


def test_another_class_called_linear_is_named_with_its_module():
    with pytest.raises(ValueError, match=rf"{__name__}\.Linear is not a plain nn\.Linear"):
        sparsify(nn.Sequential(Linear(8, 8)), Sparsity())


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
    with pytest.raises(ValueError, match=r"pattern='2:4': give an instance, as NM\(2, 4\)"):
        Sparsity(pattern="2:4")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"selection='row': give an instance, as Selection"):
        Sparsity(selection="row")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "wrong", [{"weight": SSTE()}, {"selection": ROW}, {"weight": STE(mvue=True)}], ids=str
)
def test_six_products_need_masks_for_both_orientations_and_exact_gradients(wrong):
    with pytest.raises(ValueError, match="with mvue=False and the exact selection"):
        Sparsity(activation=Activation24(), **wrong)
