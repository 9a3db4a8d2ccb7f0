"""Units change places, the function does not, and masks keep more."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.pruning.conv1d import replace_conv1d

EXACT, ROW = st.Sparsity(), st.Sparsity(selection=st.Selection("row"))


class Mlp(nn.Module):
    def __init__(self, features=8, hidden=32):
        super().__init__()
        self.fc1, self.act = nn.Linear(features, hidden), nn.ReLU()
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 32), nn.Linear(8, 32)
        self.down_proj = nn.Linear(32, 8)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def attention():
    timm_layers = pytest.importorskip("timm.layers")
    return timm_layers.Attention(32, num_heads=2, qkv_bias=True)


def in_a_model(module, seed=0) -> Any:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return nn.Sequential(module).eval()


@pytest.mark.parametrize("sparsity", [EXACT, ROW], ids=["exact", "row"])
def test_outputs_on_small_integers_stay_exactly_the_same(sparsity):
    model = in_a_model(Mlp())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).round_()
    x = torch.randint(-3, 4, (5, 8), generator=torch.Generator().manual_seed(1)).float()
    y, before = model(x), copy.deepcopy(model.state_dict())
    report = st.permute(model, sparsity)
    assert torch.equal(model(x), y)
    assert not torch.equal(model[0].fc1.weight, before["0.fc1.weight"])
    assert report.permuted == {"0 hidden units": 1}


@pytest.mark.parametrize(
    ("make", "sets"),
    [(Mlp, 1), (Gated, 1), (attention, 4)],
    ids=["mlp", "gated", "attention"],
)
def test_the_function_stays_within_rounding_and_masks_keep_more(make, sets):
    model = in_a_model(make()).double()
    x = torch.randn(2, 5, next(model.parameters()).shape[1], dtype=torch.float64)
    y = model(x)
    report = st.permute(model, EXACT)
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)
    assert sum(report.permuted.values()) == sets
    assert not report.left
    row, before, after = report.energy
    assert before < after < row
    assert report.won_back == pytest.approx((after - before) / (row - before), abs=1e-6)
    st.sparsify(model, EXACT)
    kept = [stats.kept_energy for stats in st.inspect(model)]
    assert kept == pytest.approx([layer.after for layer in report.layers], abs=1e-6)


def test_rows_alone_keep_more_too_and_only_where_columns_move():
    report = st.permute(in_a_model(Mlp()), ROW)
    assert [layer.name for layer in report.layers] == ["0.fc2"]
    assert report.layers[0].after > report.layers[0].before == report.layers[0].row
    assert report.won_back is None


def test_heads_that_share_keys_and_values_are_permuted_together():
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = modeling.LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
    config._attn_implementation = "sdpa"
    model = in_a_model(modeling.LlamaAttention(config, 0)).double()
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    angles = torch.randn(1, 3, 8, dtype=torch.float64)
    y = model[0](x, (angles.cos(), angles.sin()), None)[0]
    report = st.permute(model, EXACT)
    assert report.permuted == {"0 value channels": 2}, "queries and keys are rotated"
    torch.testing.assert_close(
        model[0](x, (angles.cos(), angles.sin()), None)[0], y, rtol=1e-12, atol=1e-12
    )


def test_windows_of_swin_are_tried_with_as_many_tokens_as_they_take():
    swin = pytest.importorskip("timm.models.swin_transformer")
    model = in_a_model(swin.WindowAttention(32, num_heads=2, window_size=4)).double()
    x = torch.randn(3, 16, 32, dtype=torch.float64)
    y = model(x)
    report = st.permute(model, EXACT, rounds=1)
    assert report.permuted == {"0 value channels": 2, "0 query and key channels": 2}
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)


def test_attention_of_t5_keeps_its_order_of_queries_where_positions_come_from_outside():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = t5.T5Config(d_model=32, d_kv=16, num_heads=2)
    model = in_a_model(t5.T5Attention(config, has_relative_attention_bias=True)).double()
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    y = model[0](x)[0]
    assert st.permute(model, EXACT, rounds=1).permuted == {"0 value channels": 2}
    torch.testing.assert_close(model[0](x)[0], y, rtol=1e-12, atol=1e-12)


def test_conv1d_layers_are_permuted_and_stay_conv1d():
    modeling = pytest.importorskip("transformers.models.gpt2.modeling_gpt2")
    model = in_a_model(modeling.GPT2MLP(32, modeling.GPT2Config(n_embd=16))).double()
    x = torch.randn(3, 16, dtype=torch.float64)
    y, before = model(x), model[0].c_fc.weight.clone()
    st.permute(model, EXACT)
    assert type(model[0].c_fc).__name__ == "Conv1D"
    assert not torch.equal(model[0].c_fc.weight, before)
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)
    replace_conv1d(model)


def normed():
    """Linear layers with a norm between that is another one for each hidden unit."""
    norm = nn.LayerNorm(32)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, 32))
    return nn.Sequential(nn.Linear(8, 32), norm, nn.Linear(32, 8))


def test_linear_layers_in_a_row_of_nn_sequential_are_permuted():
    model = in_a_model(
        nn.Sequential(
            *(nn.Flatten(), nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4)),
        )
    ).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    y = model(x)
    report = st.permute(model, EXACT)
    assert report.permuted == {"0 hidden units": 2}
    assert report.won_back is not None
    assert report.won_back > 0.1
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)


class Summed(Mlp):
    """Reads its hidden units in order."""

    def forward(self, x):
        h = self.act(self.fc1(x))
        return self.fc2(h.cumsum(-1))


class Both(Mlp):
    """Returns its hidden units as well."""

    def forward(self, x):
        h = self.act(self.fc1(x))
        return self.fc2(h), {"hidden": h}


class Tied(Mlp):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 32)
        self.other.weight = self.fc1.weight


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Mlp(), Mlp()
        self.b.fc1 = self.a.fc1

    def forward(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Summed(), "its output depends on the order"),
        (Both(), "its output depends on the order"),
        (normed(), "its output depends on the order"),
        (Tied(), "fc1.weight is tied to"),
        (Shared(), "shared with another module"),
        (Mlp(hidden=30), "30 hidden units are no multiple of 4"),
    ],
)
def test_what_may_not_be_permuted_is_left_and_said(module, why):
    model = nn.Sequential(module, nn.Linear(8, 8))
    before = copy.deepcopy(model.state_dict())
    report = st.permute(model, EXACT)
    assert all(why in reason for reason in report.left.values())
    assert report.left
    assert why in str(report)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_layers_of_other_patterns_and_dense_ones_are_left_alone():
    model = in_a_model(Mlp())
    before = copy.deepcopy(model.state_dict())
    report = st.permute(model, st.Sparsity(pattern=st.Unstructured(0.5)))
    assert report.layers == ()
    assert report.summary().startswith("nothing permuted: no 2:4 layer has units")
    assert torch.equal(model[0].fc1.weight, before["0.fc1.weight"])


def test_wrong_options_and_a_model_that_trains_are_refused_in_one_line():
    model = in_a_model(Mlp())
    with pytest.raises(ValueError, match=r"sparsity=\['\*'\]: give an instance, as Sparsity"):
        st.permute(model, ["*"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"rounds=1\.5: give a whole number"):
        st.permute(model, EXACT, rounds=1.5)  # pyright: ignore[reportArgumentType]
    model(torch.randn(2, 8)).sum().backward()
    with pytest.raises(ValueError, match=r"0.fc1.weight has a gradient: permute before the opt"):
        st.permute(model, EXACT)
    model.zero_grad()
    st.sparsify(model, EXACT)
    with pytest.raises(ValueError, match="the model is sparse already: call permute before"):
        st.permute(model, EXACT)


def test_the_order_does_not_depend_on_the_number_of_threads():
    states = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model = in_a_model(Mlp(64, 128))
            st.permute(model, EXACT, rounds=4)
        finally:
            torch.set_num_threads(before)
        states.append(model[0].fc1.weight)
    assert torch.equal(*states)
