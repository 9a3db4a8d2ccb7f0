"""Layers that are not what they look like stay dense with the reason, before or after sparsify."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import nn
from torch.nn.utils import parametrizations, prune

import sparsetrain as st


class LoRA(nn.Module):
    """An adapter around a linear layer, that also shows its weight."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.lora_A = base, nn.Linear(base.in_features, base.out_features)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x):
        return self.base_layer(x) + self.lora_A(x)


class Gate(Mlp):
    """A gate with the children of an MLP."""

    def forward(self, x):
        return x * torch.sigmoid(super().forward(x.mean(1, keepdim=True)))


class Residual(Mlp):
    def forward(self, x):
        return x + super().forward(x)


class FourDimensions(Mlp):
    """Takes [B, H, W, C] alone."""

    def forward(self, x):
        _b, _h, _w, _c = x.shape
        return super().forward(x)


class Nothing(Mlp):
    """Takes what no test can know."""

    def forward(self, x, sizes):
        return super().forward(x)


class Gained(Mlp):
    """Has a gain, of one until it trains."""

    def __init__(self, inputs, hidden):
        super().__init__(inputs, hidden)
        self.gain = nn.Parameter(torch.ones(inputs))

    def forward(self, x):
        return super().forward(x) * self.gain


class Clamped(Mlp):
    def forward(self, x):
        return super().forward(x).clamp(-10, 10)


ACTIVATION = st.Sparsity(weight=None, activation=st.Activation24())


def reasons(report):
    return {row.name: row.reason for row in report.skipped}


@pytest.mark.parametrize("kind", [Gate, Residual, Nothing, Gained, Clamped])
def test_what_only_looks_like_an_mlp_keeps_its_dense_activation(kind):
    model: Any = nn.Sequential(Mlp(16, 32), kind(16, 32))
    report = st.sparsify(model, ACTIVATION)
    assert [row.name for row in report.converted] == ["0"]
    why = "parameters or buffers of its own: gain" if kind is Gained else "its forward"
    assert why in reasons(report)["1"]
    assert type(model[1]) is kind


@pytest.mark.parametrize("kind", [Gained, Clamped])
def test_what_only_looks_like_an_mlp_is_not_one_function_around_its_gelu(kind):
    model: Any = nn.Sequential(kind(16, 32))
    st.sparsify(model, st.Sparsity(), engine="native")
    assert type(model[0]) is kind


def test_a_gate_of_a_half_is_kept():
    model: Any = nn.Sequential(Mlp(16, 32), Gate(16, 32))
    nn.init.zeros_(model[1].fc2.weight)
    nn.init.zeros_(model[1].fc2.bias)
    st.sparsify(model, ACTIVATION)
    x = torch.randn(2, 5, 16)
    assert torch.allclose(model[1](x), x / 2)


@pytest.mark.parametrize("sparsity", [st.Sparsity(), ACTIVATION], ids=["weights", "activations"])
def test_an_mlp_for_images_is_one_function(sparsity):
    model: Any = nn.Sequential(FourDimensions(16, 32))
    st.sparsify(model, sparsity, engine="native")
    assert isinstance(model[0], st.SparseMlp)
    assert model(torch.randn(2, 3, 4, 16)).shape == (2, 3, 4, 16)


def test_a_model_is_as_it_was_where_sparsify_raises():
    model: Any = nn.Sequential(Mlp(16, 32), nn.Linear(15, 7))
    before = [(name, type(module)) for name, module in model.named_modules()]
    for sparsity in (
        st.Sparsity(include=("1",)),
        st.Sparsity(include=("nowhere",)),
        st.Sparsity(include=("1",), weight=None, activation=st.Activation24()),
    ):
        with pytest.raises(ValueError, match=r"no included layer|matches no|no MLP"):
            st.sparsify(model, sparsity)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert st.sparsify(model, st.Sparsity()).converted


def adapted(mlp):
    mlp.fc1 = LoRA(mlp.fc1)


def replaced_act(mlp):
    mlp.act = nn.ReLU()


def hooked(mlp):
    mlp.act.register_forward_hook(lambda module, args, output: output * 2)


def drops_out(mlp):
    mlp.drop1 = nn.Dropout(0.999)


def normalized(mlp):
    mlp.norm = nn.LayerNorm(32)


def parametrized(mlp):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(mlp.fc2, "weight", Double())


def pruned(mlp):
    prune.random_unstructured(mlp.fc1, "weight", 0.9)


def patched(mlp):
    forward = mlp.fc2.forward
    mlp.fc2.forward = lambda x: forward(x) + 1


CHANGES = [adapted, replaced_act, hooked, drops_out, normalized, parametrized, pruned, patched]


@pytest.mark.parametrize("change", CHANGES)
def test_an_mlp_that_is_one_function_notices_what_became_of_its_children(change):
    torch.manual_seed(0)
    model: Any = nn.Sequential(Mlp(16, 32))
    st.sparsify(model, st.Sparsity(), engine="native")
    x = torch.randn(4, 16)
    before = model(x)
    change(model[0])
    after = model(x)
    assert not torch.equal(before, after)
    after.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("change", [adapted, hooked])
def test_activations_that_become_dense_so_are_said_to_be(change):
    model: Any = nn.Sequential(Mlp(16, 32))
    st.sparsify(model, ACTIVATION)
    change(model[0])
    with pytest.warns(UserWarning, match="hidden activations stay dense: (fc1|act)"):
        model(torch.randn(4, 16))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo
def test_a_compiled_mlp_notices_too():
    model: Any = nn.Sequential(Mlp(16, 32))
    st.sparsify(model, st.Sparsity(), engine="native")
    compiled, x = torch.compile(model, backend="eager"), torch.randn(4, 16)
    with torch.no_grad():
        before = compiled(x)
        adapted(model[0])
        assert torch.allclose(compiled(x), model(x))
        assert not torch.allclose(compiled(x), before)


@pytest.mark.parametrize(
    "replace",
    [
        lambda m: torch.compile(m.forward, backend="eager"),
        lambda m: type(m).forward.__get__(m),
        lambda m: lambda x: F.linear(x, m.weight),
    ],
    ids=["compiled", "method", "patched"],
)
def test_a_forward_on_the_instance_is_refused_before_and_honoured_after(replace):
    model: Any = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
    model[0].forward = replace(model[0])
    report = st.sparsify(model, st.Sparsity())
    assert "replaced on the instance" in reasons(report)["0"]
    calls = []
    inner = model[1].forward
    model[1].forward = lambda x: calls.append(1) or inner(x)
    x = torch.randn(4, 16)
    y = model(x)
    assert calls
    used = model[1].used_weight()
    assert torch.allclose(y, F.linear(model[0](x), used, model[1].bias), atol=1e-6)


@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda m: prune.random_unstructured(m, "weight", 0.5),
        parametrizations.weight_norm,
        parametrizations.orthogonal,
    ],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_computed_weight_is_refused(compute):
    model: Any = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
    compute(model[0])
    report = st.sparsify(model, st.Sparsity())
    assert [row.name for row in report.converted] == ["1"]
    model.eval()
    x = torch.randn(4, 16)
    y = model(x)
    st.densify(model, apply_masks=True)
    assert torch.equal(model(x), y)


def test_the_factors_of_an_adapter_stay_dense():
    model: Any = nn.Sequential(LoRA(nn.Linear(16, 32)))
    report = st.sparsify(model, st.Sparsity())
    assert [row.name for row in report.converted] == ["0.base_layer"]
    assert reasons(report) == {"0.lora_A": "it is a factor of an adapter"}


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_weight_that_is_parametrized_later_trains_and_says_what_densify_needs(norm):
    model: Any = nn.Sequential(nn.Linear(16, 32))
    st.sparsify(model, st.Sparsity())
    norm(model[0])
    model(torch.randn(4, 16)).sum().backward()
    with pytest.raises(ValueError, match=r"0\.weight is computed since sparsify"):
        st.densify(model)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert st.densify(model)(torch.randn(4, 16)).shape == (4, 32)
    assert type(model[0]) is nn.Linear


class Reads(nn.Module):
    """Reads weights of its children, and calls one."""

    def __init__(self):
        super().__init__()
        self.q, self.wo = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        x = F.linear(x, self.q.weight, self.q.bias)
        return self.wo(x.to(self.wo.weight.dtype))


def test_a_parent_that_reads_a_weight_in_its_source_keeps_it_dense():
    model: Any = nn.Sequential(Reads())
    report = st.sparsify(model, st.Sparsity())
    assert [row.name for row in report.converted] == ["0.wo"]
    assert reasons(report) == {"0.q": "Reads reads its weight without calling it"}


def test_a_grandparent_that_reads_a_weight_keeps_it_dense():
    class Grandparent(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn: Any = nn.Module()
            self.attn.qkv = nn.Linear(16, 16)
            self.out = nn.Linear(16, 16)

        def forward(self, x):
            return self.out(x @ self.attn.qkv.weight.T)

    report = st.sparsify(nn.Sequential(Grandparent()), st.Sparsity())
    assert [row.name for row in report.converted] == ["0.out"]


def test_torchvision_swin_keeps_its_attention_dense():
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    model = swin.SwinTransformer([4, 4], 32, [1, 1], [2, 2], [4, 4], num_classes=8).eval()
    x = torch.randn(1, 3, 32, 32)
    report = st.sparsify(model, st.Sparsity(include=("*attn*", "*mlp*")))
    assert all("attn" not in row.name for row in report.converted)
    y = model(x)
    st.densify(model, apply_masks=True)
    assert torch.equal(model(x), y)


def test_a_position_bias_mlp_stays_dense():
    model: Any = nn.Sequential()
    model.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, 4, bias=False))
    model.mlp = nn.Linear(4, 4)
    report = st.sparsify(model, st.Sparsity(include=("*mlp*",)))
    assert [row.name for row in report.converted] == ["mlp"]
    assert "coordinates" in reasons(report)["cpb_mlp.2"]


def test_fx_traces_sparse_layers_as_leaves():
    model: Any = nn.Sequential(Mlp(16, 32), nn.Linear(16, 8))
    st.sparsify(model, st.Sparsity(), engine="native")
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1"]
    x = torch.randn(4, 16)
    assert torch.equal(traced(x), model(x))


def test_features_of_a_sparse_model_can_be_extracted():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model: Any = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    st.sparsify(model, st.Sparsity())
    features = extraction.create_feature_extractor(model, {"1": "hidden"})
    assert features(torch.randn(4, 16))["hidden"].shape == (4, 32)
