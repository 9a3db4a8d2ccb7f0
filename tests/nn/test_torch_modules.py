"""PyTorch's own modules that hold linear layers, and some that use them without calling them."""

from typing import Any

import pytest
import torch
from nn_checks import assert_trains, normal, seeded
from torch import nn
from torch.nn.utils import parametrizations, prune

from sparsetrain.nn import Sparsity, densify, sparse_linears, sparsify
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
        ValueError, match=r"linear1 and 1 more: TransformerEncoderLayer reads its weight.*eval"
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


@pytest.mark.parametrize("compute", [parametrizations.spectral_norm, prune.identity])
def test_a_linear_whose_weight_is_computed_stays_dense(compute):
    named = {"name": "weight"}
    model = nn.Sequential(nn.Linear(8, 8), compute(nn.Linear(8, 8), **named))
    report = sparsify(model, Sparsity())
    assert reasons(report) == {
        "1": "its weight is computed by a hook (weight_norm, spectral_norm, pruning)"
    }


class Fused(nn.Module):
    """Multiplies by the weight of its qkv itself, as those do that add a bias of their own."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24, bias=False), nn.Linear(24, 8)

    def forward(self, x):
        return self.proj(nn.functional.linear(x, self.qkv.weight))


class Above(nn.Module):
    """Reads the weight of a layer that is not its own child."""

    def __init__(self):
        super().__init__()
        self.inner = Fused()

    def forward(self, x):
        return self.inner(x) @ self.inner.proj.weight


class Helped(Fused):
    """Reads it in a method that its forward calls, as WavLM's attention does."""

    def forward(self, x):
        return self.proj(self.multiplied(x))

    def multiplied(self, x):
        return self.by(x)

    def by(self, x):
        return nn.functional.linear(x, self.qkv.weight)

    def merged(self):
        return self.proj.weight @ self.qkv.weight


class Casting(Fused):
    """Asks a weight for its dtype alone."""

    def forward(self, x):
        return self.proj(self.qkv(x.to(self.qkv.weight.dtype)))


def test_a_layer_whose_weight_a_module_above_reads_stays_dense_and_the_report_names_it():
    reads = "reads its weight without calling it"
    assert reasons(sparsify(Fused(), Sparsity())) == {"qkv": f"Fused {reads}"}
    assert reasons(sparsify(Helped(), Sparsity())) == {"qkv": f"Helped {reads}"}
    assert reasons(sparsify(nn.Sequential(Above(), nn.Linear(8, 8)), Sparsity())) == {
        "0.inner.qkv": f"Fused {reads}",
        "0.inner.proj": f"Above {reads}",
    }
    assert sparsify(Casting(), Sparsity()).skipped == ()


def test_a_head_that_shares_the_weight_of_an_embedding_stays_dense_with_it():
    model: Any = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False))
    model[2].weight = model[0].weight
    report = sparsify(model, Sparsity())
    assert reasons(report) == {"2": "its weight is tied to 0, which stays dense"}
    assert_trains(model, torch.arange(12))


@pytest.mark.parametrize("rows", [slice(None), slice(2, 6)], ids=["whole", "in part"])
def test_of_linears_that_share_a_weight_none_is_sparse_alone(rows):
    model: Any = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    model[1].weight = nn.Parameter(model[0].weight.detach()[rows])
    report = sparsify(model, Sparsity(exclude=("1",)))
    assert reasons(report) == {"0": "its weight is tied to 1, which stays dense", "1": "excluded"}
