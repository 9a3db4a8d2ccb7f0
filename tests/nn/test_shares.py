"""The report tells the whole model: shares, and matrices in no linear layer."""

import math

import pytest
import torch
from nn_checks import Mlp, Net, normal
from torch import nn

from sparsetrain.methods import STE, Activation24
from sparsetrain.nn import Sparsity, count_tokens, sparsify


class Twice(nn.Module):
    """A linear layer called twice, attention scores between, a convolution before."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(4, 8, 2, stride=2)
        self.mix, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x):
        x = self.patches(x).mT
        x = self.mix(self.mix(x))
        return self.head(x @ x.mT @ x)


class Experts(nn.Module):
    """Fused, as in Hugging Face Mixtral."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(3, 8, 16))


def shares_of(model, sparsity, **tokens):
    shares = sparsify(model, sparsity, **tokens).shares
    assert shares is not None
    return shares


def reasons(report):
    return {row.name: row.reason for row in report.unreached}


def test_shares_are_of_all_parameters_and_of_the_linear_layers_per_token():
    model = Net()  # 8×8, 16×8, 8×16 and 4×8 weights; 8, 16 and 8 biases
    report = sparsify(model, Sparsity(exclude=("head",)))
    assert report.shares is not None
    assert report.shares.parameters == pytest.approx(320 / (352 + 32))
    assert report.shares.flops == pytest.approx(320 / 352)
    assert str(report).splitlines()[1] == (
        "sparse: 83.3% of the parameters, 90.9% of the FLOPs that its linear layers spend on a "
        "token"
    )


def test_with_counted_tokens_flops_are_of_all_matrix_products_of_a_forward():
    model = Twice()
    tokens = count_tokens(model, torch.empty(3, 4, 10))
    # 15 rows: the layer twice, its head, two products of 5×5 scores, and the convolution.
    mix, head, scores, patches = 2 * 15 * 64, 15 * 32, 2 * 3 * 5 * 5 * 8, 15 * 64
    assert tokens == {"mix": 15, "head": 15}
    assert tokens.flops == 2 * (mix + head + scores + patches)
    shares = shares_of(model, Sparsity(include=("mix",)), tokens=tokens)
    assert shares.flops == pytest.approx(2 * mix / tokens.flops)
    assert str(shares).endswith("of the FLOPs of all matrix products of a forward")


def test_with_rows_by_name_flops_are_of_the_linear_layers_at_their_tokens():
    shares = shares_of(Twice(), Sparsity(include=("mix",)), tokens={"mix": 2, "head": 4})
    assert shares.flops == pytest.approx(64 * 2 / (64 * 2 + 32 * 4))
    assert str(shares).endswith("that its linear layers spend on the tokens of each")


@pytest.mark.parametrize(("weight", "parameters", "flops"), [(None, 0, 0.5), (STE(), 256, 1.0)])
def test_of_activations_the_second_product_of_an_mlp_is_sparse(weight, parameters, flops):
    model = nn.Sequential(Mlp())
    shares = shares_of(model, Sparsity(weight=weight, activation=Activation24()))
    assert shares.parameters == pytest.approx(parameters / (256 + 24))
    assert shares.flops == flops


def test_a_model_with_nothing_to_be_sparse_has_no_shares():
    assert sparsify(Net(), Sparsity(weight=None)).shares is None


def test_matrices_in_no_linear_layer_are_listed_with_what_holds_them():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(10, 8),
            "conv": nn.Conv2d(3, 8, 2),
            "attention": nn.MultiheadAttention(8, 2),
            "experts": nn.ModuleList([Experts(), Experts()]),
            "norm": nn.LayerNorm(8),
            "fc": nn.Linear(8, 8),
        }
    )
    report = sparsify(model, Sparsity())
    assert reasons(report) == {
        "embed": "Embedding is looked up, not multiplied",
        "conv": "Conv2d is no nn.Linear",
        "attention.in_proj_weight": "a parameter of MultiheadAttention, in no nn.Linear",
        "experts.0.gate_up_proj": "a parameter of Experts, in no nn.Linear",
        "experts.1.gate_up_proj": "a parameter of Experts, in no nn.Linear",
    }
    assert [row.name for row in report.skipped] == ["attention.out_proj"]
    assert "experts.*.gate_up_proj (2) 3×8×16 dense a" in " ".join(str(report).split())


def test_a_kind_of_matrix_below_a_hundredth_of_the_parameters_is_not_listed():
    few, many = (nn.ModuleList(nn.Conv1d(2, 2, 1, bias=False) for _ in range(n)) for n in (2, 8))
    for convs, listed in ((few, False), (many, True)):  # 8 and 32 of about 1000
        model = nn.Sequential(convs, nn.Linear(32, 32, bias=False))
        assert bool(sparsify(model, Sparsity()).unreached) == listed


def test_a_weight_that_a_linear_layer_shares_is_its_own_row_alone():
    embed, head = nn.Embedding(8, 8), nn.Linear(8, 8)
    head.weight = embed.weight
    report = sparsify(nn.Sequential(embed, head, nn.Linear(8, 8)), Sparsity())
    assert report.unreached == ()
    assert [row.name for row in report.skipped] == ["1"]
    assert report.shares is not None
    assert report.shares.parameters == pytest.approx(64 / (128 + 16))


def test_a_lazy_layer_stays_dense_and_has_no_share():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.LazyLinear(4))
    report = sparsify(model, Sparsity())
    assert [(row.name, row.reason) for row in report.skipped] == [
        ("1", "its weight has no shape yet: run a forward before")
    ]
    assert report.shares is not None
    assert report.shares.parameters == 1.0
    assert model(normal(2, 8)).isfinite().all()


def test_what_layers_hold_is_counted_once_where_they_share_it():
    fc = nn.Linear(8, 8, bias=False)
    shares = shares_of(nn.Sequential(fc, fc, nn.Conv1d(8, 8, 1, bias=False)), Sparsity())
    assert math.isclose(shares.parameters, 0.5)
