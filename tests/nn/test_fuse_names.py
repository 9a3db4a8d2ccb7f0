"""MLPs whose activation or children have another class or name than timm's `Mlp` with `nn.GELU`."""

import copy
import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp, normal, seeded
from torch import nn

import sparsetrain as st
from sparsetrain.inference import PackedMlp
from sparsetrain.nn import SparseMlp, SquaredReLU
from sparsetrain.nn.activations import gelu_of
from sparsetrain.nn.roles import act_of, known_roles, put_act


class OtherGelu(nn.Module):
    """As timm's GELU and GELUTanh, and transformers' GELUActivation."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.act = lambda x: F.gelu(x, approximate=approximate)

    def forward(self, input):
        return self.act(input)


class Gpt2Gelu(nn.Module):
    """As transformers' NewGELUActivation, and nanoGPT's of before."""

    def forward(self, x):
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
        return 0.5 * x * (1.0 + torch.tanh(inner))


class BertGelu(nn.Module):
    def forward(self, x):
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class TransformersMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation_fn = OtherGelu()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, hidden_states):
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class VJepaMlp(nn.Module):
    """The names of transformers' VJEPA2MLP, FocalNetMlp and VitPoseBackboneMLP."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.activation, self.fc2 = nn.Linear(8, 16), OtherGelu(), nn.Linear(16, 8)

    def forward(self, hidden_state):
        return self.fc2(self.activation(self.fc1(hidden_state)))


def with_act(act: nn.Module) -> Any:
    mlp: Any = Mlp()
    mlp.act = act
    return mlp


FUSED = {
    "none": lambda: with_act(OtherGelu()),
    "tanh": lambda: with_act(OtherGelu("tanh")),
    "formula by tanh": lambda: with_act(Gpt2Gelu()),
    "formula by erf": lambda: with_act(BertGelu()),
    "activation_fn": TransformersMlp,
    "activation": VJepaMlp,
}


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_a_gelu_of_another_class_or_name_is_one_function_with_the_same_bits(make):
    found: Any = nn.Sequential(seeded(make()))
    named: Any = nn.Sequential(seeded(Mlp()))
    named[0].load_state_dict(found[0].state_dict())
    named[0].act = nn.GELU(gelu_of(act_of(found[0])))
    for model in (found, named):
        report = st.sparsify(model, st.Sparsity(), engine="native")
        assert report.fused.startswith("1 MLP: fc1, GELU and fc2 as one function")
        assert isinstance(model[0], SparseMlp)
        model[0](normal(6, 8)).square().sum().backward()
    for ours, expected in zip(found.parameters(), named.parameters(), strict=True):
        assert torch.equal(ours.grad, expected.grad)
    x = normal(6, 8)
    fused = found(x)
    st.densify(found, apply_masks=True)
    assert type(found[0]) is type(make())
    torch.testing.assert_close(found(x), fused)


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_it_is_one_function_for_inference_too(make):
    net: Any = nn.Sequential(seeded(make()))
    st.prune(net, st.Magnitude())
    alone: Any = copy.deepcopy(net)
    again: Any = copy.deepcopy(net)
    st.quantize(again)
    assert isinstance(again[0], PackedMlp)
    st.quantize(net, torch.int8)  # whose sums and scales are those of its children
    assert isinstance(net[0], PackedMlp)
    with torch.inference_mode():
        assert torch.equal(net[0](normal(6, 8)), net[0].dense_class.forward(net[0], normal(6, 8)))
        exact = alone(normal(64, 8))
        for packed in (net, again):
            assert (packed(normal(64, 8)) - exact).norm() < 0.08 * exact.norm()


@pytest.mark.parametrize("make", [TransformersMlp, VJepaMlp])
def test_2_of_4_activations_take_the_place_of_another_name(make):
    model: Any = nn.Sequential(seeded(make()))
    st.sparsify(model, st.Sparsity(activation=st.Activation24()), engine="native")
    assert type(act_of(model[0])) is SquaredReLU
    model[0](normal(6, 8)).sum().backward()
    put_act(model[0], nn.Tanh())
    with pytest.warns(UserWarning, match=f"{known_roles(model[0]).act} is Tanh now"):
        model(normal(6, 8))


class Clipped(OtherGelu):
    def forward(self, input):
        return super().forward(input).clamp(max=1e6)


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Shifted(Gpt2Gelu):
    def forward(self, x):
        return super().forward(x) + 1e-6


class InHalf(Gpt2Gelu):
    def forward(self, x):
        return super().forward(x.half())


class InTraining(OtherGelu):
    def forward(self, input):
        return F.gelu(input) if self.training else F.relu(input)


class Called(nn.GELU):
    def __call__(self, input):
        return 2 * super().__call__(input)


@pytest.mark.parametrize(
    "act",
    [
        Clipped(),
        InTraining(),
        Called(),
        QuickGelu(),
        Shifted(),
        InHalf(),
        nn.SiLU(),
        nn.PReLU(),
        nn.Softmax(0),
    ],
)
def test_what_does_more_than_gelu_is_none(act):
    assert gelu_of(act) == ""
    assert act.training


class Gated(nn.Module):
    """The children of timm's SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1_g, self.fc1_x, self.fc2 = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.fc2(self.act(self.fc1_g(x)) * self.fc1_x(x))


class LinearNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs), nn.LayerNorm(outputs))


def bert() -> nn.Module:
    layer = nn.Module()
    layer.intermediate = nn.Module()
    layer.intermediate.dense, layer.intermediate.intermediate_act_fn = nn.Linear(8, 16), nn.GELU()
    layer.output = nn.Linear(16, 8)
    return layer


def normed() -> nn.Module:
    parts = {"ln1": LinearNorm(8, 16), "act": nn.Hardswish(), "ln2": LinearNorm(16, 8)}
    return nn.Sequential(OrderedDict(parts))


NOT_THOSE = "not two linear layers, an activation and dropouts"
REASONS = {
    "its activation is SiLU, not GELU": lambda: with_act(nn.SiLU()),
    "its activation is Clipped, not GELU": lambda: with_act(Clipped()),
    "it is gated": Gated,
    f"its children are 0, 1, 2, 3, {NOT_THOSE}": lambda: nn.Sequential(
        nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 8)
    ),
    f"its children are 0, 1, 2, {NOT_THOSE}": lambda: nn.Sequential(
        nn.GELU(), nn.Linear(8, 16), nn.Linear(16, 8)
    ),
    f"its children are ln1, act, ln2, {NOT_THOSE}": normed,
    "its second linear layer is in another module": bert,
}


@pytest.mark.parametrize("why", REASONS)
def test_the_report_says_why_an_mlp_is_not_one_function(why):
    model = nn.ModuleList([seeded(REASONS[why]())])
    report = st.sparsify(model, st.Sparsity(), engine="native")
    assert report.fused == f"1 MLP: not as one function, so slower: {why}."
    assert not any(isinstance(module, SparseMlp) for module in model.modules())
    packed = st.quantize(model)
    assert packed.fused == report.fused


def test_an_mlp_of_which_a_part_stays_dense_says_which():
    model = nn.Sequential(Mlp())
    report = st.sparsify(model, st.Sparsity(exclude=("*.fc2",)), engine="native")
    why = "fc2 is not 2:4 on native products"
    assert report.fused == f"1 MLP: not as one function, so slower: {why}."
    assert st.quantize(model).fused.endswith("slower: fc1 and fc2 are not both packed.")


def test_attention_is_no_mlp():
    attention: Any = nn.Module()
    attention.qkv, attention.act, attention.proj = nn.Linear(8, 24), nn.GELU(), nn.Linear(8, 8)
    report = st.sparsify(nn.ModuleList([attention]), st.Sparsity(), engine="native")
    assert report.fused == ""


def test_an_mlp_with_dropout_is_one_function_when_it_is_quantized_in_training_mode():
    model = nn.Sequential(seeded(Mlp(drop=0.1)))
    st.prune(model, st.Magnitude())
    st.quantize(model.train())
    assert isinstance(model[0], PackedMlp)


def test_an_activation_that_no_mlp_can_take_says_why():
    with pytest.raises(ValueError, match=r"no MLP can take it \(0: it is gated\)$"):
        st.sparsify(nn.ModuleList([Gated()]), st.Sparsity(activation=st.Activation24()))


@pytest.mark.parametrize("make", [TransformersMlp, VJepaMlp])
def test_2_of_4_dropout_lies_behind_another_name(make):
    model: Any = nn.Sequential(seeded(make()))
    st.sparsify(model, st.Sparsity(weight=None, activation=st.ActivationDropout24()))
    dense = copy.deepcopy(model[0]).to_dense()
    x = normal(6, 8)
    y = model(x)
    y.square().mean().backward()
    assert (y - dense(x)).abs().max() > 0.1
    torch.testing.assert_close(model.eval()(x), dense(x))
