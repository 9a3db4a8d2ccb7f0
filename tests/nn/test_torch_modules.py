"""PyTorch's own modules that hold linear layers, and some that use them without calling them."""

import pytest
import torch
from nn_checks import assert_sparse_both_ways, assert_trains, normal, seeded
from torch import nn
from torch.nn.utils import parametrizations

from sparsetrain.nn import SparseLinear, Sparsity, densify, sparse_linears, sparsify
from sparsetrain.patterns import NM


def reasons(report):
    return {row.name: row.reason for row in report.skipped}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0])


def test_multihead_attention_stays_dense_because_it_reads_its_weight():
    model = Attention()
    report = sparsify(model, Sparsity())
    assert list(sparse_linears(model)) == ["out"]
    assert reasons(report) == {
        "attention.out_proj": "MultiheadAttention reads its weight without calling it"
    }
    assert_trains(model, normal(2, 5, 8))


def encoder_layer(**changes):
    arguments = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0, **changes}
    return seeded(nn.TransformerEncoderLayer(**arguments))


def test_an_encoder_layer_with_a_fused_eval_path_stays_dense_with_the_reason():
    # In eval mode it multiplies by linear1.weight itself: it would be validated dense.
    with pytest.raises(
        ValueError, match=r"linear1: TransformerEncoderLayer reads its weight.*eval"
    ):
        sparsify(encoder_layer(batch_first=True), Sparsity())


@pytest.mark.parametrize(
    "changes",
    [{"batch_first": False}, {"batch_first": True, "activation": torch.nn.functional.silu}],
)
def test_an_encoder_layer_without_it_is_sparse_in_eval_mode_too(changes):
    layer, x = encoder_layer(**changes), normal(2, 4, 8)
    report = sparsify(layer, Sparsity())
    assert list(sparse_linears(layer)) == ["linear1", "linear2"]
    assert list(reasons(report)) == ["self_attn.out_proj"]
    assert_trains(layer, x)
    expected = layer(x)
    layer.eval()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)
    densify(layer, apply_masks=True)
    assert NM(2, 4).holds(layer.linear1.weight)
    torch.testing.assert_close(layer(x), expected)


def test_a_decoder_layer_is_sparse_in_its_feed_forward():
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    sparsify(layer, Sparsity())
    assert list(sparse_linears(layer)) == ["linear1", "linear2"]
    x = normal(2, 4, 8)
    expected = layer(x, x)
    with torch.inference_mode():
        torch.testing.assert_close(layer.eval()(x, x), expected)


def test_a_parametrized_linear_stays_dense_by_name():
    model = nn.Sequential(nn.Linear(8, 8), parametrizations.spectral_norm(nn.Linear(8, 8)))
    report = sparsify(model, Sparsity())
    assert reasons(report) == {"1": "ParametrizedLinear is not a plain nn.Linear"}


def test_a_module_that_adds_the_bias_of_its_qkv_itself_keeps_it_dense():
    class Fused(nn.Module):
        def __init__(self, q_bias):
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 24, bias=False), nn.Linear(24, 8)
            self.q_bias = q_bias

        def forward(self, x):
            return self.proj(self.qkv(x))

    report = sparsify(Fused(nn.Parameter(torch.zeros(8))), Sparsity())
    assert reasons(report) == {
        "qkv": "Fused reads its weight without calling it, to add q_bias and v_bias"
    }
    assert sparsify(Fused(None), Sparsity()).skipped == ()


def test_a_tied_head_trains_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 12, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    model = Tied()
    sparsify(model, Sparsity())
    assert isinstance(model.head, SparseLinear)
    assert model.head.weight is model.embed.weight
    assert_sparse_both_ways(model)
    assert_trains(model, torch.arange(12))
    assert len(list(model.parameters())) == 1
