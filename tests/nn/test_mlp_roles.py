"""MLPs whose children have other names than timm's: found by what they are, and tried."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp, normal, seeded
from op_calls import OpCalls
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import MLPBlock, VisionTransformer

import sparsetrain as st
from sparsetrain.inference import PackedMlp
from sparsetrain.nn import SparseMlp
from sparsetrain.nn.roles import Roles, roles_of


class NanoGpt(nn.Module):
    """The children of nanoGPT's MLP."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.c_fc, self.gelu = nn.Linear(8, 16), nn.GELU()
        self.c_proj, self.dropout = nn.Linear(16, 8), nn.Dropout(drop)

    def forward(self, x):
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class Sam(nn.Module):
    """The children of transformers' `SamMLPBlock`, the activation last."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(8, 16), nn.Linear(16, 8), nn.GELU()

    def forward(self, x):
        return self.lin2(self.act(self.lin1(x)))


class DistilBert(nn.Module):
    """The children of transformers' `FFN`, its dropout first."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0)
        self.lin1, self.lin2, self.activation = nn.Linear(8, 16), nn.Linear(16, 8), nn.GELU()

    def forward(self, x):
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class DropsBefore(NanoGpt):
    """A dropout that is registered last, and called before the second layer."""

    def forward(self, x):
        return self.c_proj(self.dropout(self.gelu(self.c_fc(x))))


def vit_pytorch() -> nn.Module:
    """The `net` of vit-pytorch's `FeedForward`."""
    first, second = nn.Linear(8, 16), nn.Linear(16, 8)
    drops = nn.Dropout(0.0), nn.Dropout(0.0)
    return nn.Sequential(nn.LayerNorm(8), first, nn.GELU(), drops[0], second, drops[1])


MLPS = {
    "torchvision": (lambda: MLPBlock(8, 16, 0.0), Roles("0", "1", "3", ("2",), "", "4")),
    "nanoGPT": (NanoGpt, Roles("c_fc", "gelu", "c_proj", (), "", "dropout")),
    "SAM": (Sam, Roles("lin1", "act", "lin2", (), "", "")),
    "vit-pytorch": (vit_pytorch, Roles("1", "2", "4", ("3",), "", "5", "0")),
    "DistilBERT": (DistilBert, Roles("lin1", "activation", "lin2", (), "", "dropout")),
}
each = pytest.mark.parametrize("name", MLPS)
ACTIVATIONS = None, st.Activation24()


def made(name: str) -> Any:
    return seeded(MLPS[name][0]())


def as_timm(mlp: nn.Module) -> Any:
    """The same MLP with timm's names."""
    timm: Any = nn.Sequential(nn.LayerNorm(8), Mlp()) if len([*mlp.parameters()]) > 4 else Mlp()
    with torch.no_grad():
        for own, other in zip(timm.parameters(), mlp.parameters(), strict=True):
            own.copy_(other)
    return timm


@each
def test_children_have_roles_whatever_their_names(name):
    assert roles_of(made(name)) == MLPS[name][1]


NO_MLPS = {
    "dropout before the activation": nn.Sequential(
        nn.Linear(8, 16), nn.Dropout(), nn.GELU(), nn.Linear(16, 8)
    ),
    "a norm": nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 8)),
    "the activation first": nn.Sequential(nn.GELU(), nn.Linear(8, 16), nn.Linear(16, 8)),
    "the activation last": nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8), nn.GELU()),
    "three layers": nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.Linear(16, 8)),
    "layers that do not follow": nn.ModuleDict(
        {"qkv": nn.Linear(8, 24), "act": nn.GELU(), "proj": nn.Linear(8, 8)}
    ),
    "something else before": nn.Sequential(
        nn.Tanh(), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
    ),
    "two dropouts at the end": nn.Sequential(
        nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Dropout(), nn.Dropout()
    ),
}


@pytest.mark.parametrize("what", NO_MLPS)
def test_other_children_are_no_mlp(what):
    assert roles_of(NO_MLPS[what]) is None


@each
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_it_trains_as_one_of_timms_names(name, activation):
    sparsity, x = st.Sparsity(activation=activation), normal(12, 8)
    results, calls = [], []
    for mlp in (made(name), as_timm(made(name))):
        model: Any = nn.ModuleList([mlp])
        report = st.sparsify(model, sparsity, engine="native")
        assert sum(isinstance(module, SparseMlp) for module in model.modules()) == 1
        assert isinstance(model[0], type(mlp)), "models ask for its class"
        assert report.fused.startswith("1 MLP: ") is (activation is None)
        given = x.clone().requires_grad_()
        with OpCalls() as ops:
            y = model[0](given)
            y.square().sum().backward()
        results.append([y, given.grad, *(p.grad for p in mlp.parameters())])
        calls.append(ops.names)
    assert calls[0] == calls[1]
    for own, timm in zip(*results, strict=True):
        assert torch.equal(own, timm)


@each
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_names_and_classes_stay_and_come_back(name, activation):
    model: Any = nn.ModuleList([made(name)])
    dense, keys = type(model[0]), list(model.state_dict())
    st.sparsify(model, st.Sparsity(activation=activation), engine="native")
    x = normal(12, 8)
    assert list(model.state_dict()) == keys
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other[0](x), model[0](x))
    st.densify(model)
    assert type(model[0]) is dense
    assert "roles" not in vars(model[0])
    assert list(model.state_dict()) == keys


@each
def test_a_child_that_was_changed_since_is_called(name):
    model: Any = nn.ModuleList([made(name)])
    st.sparsify(model, st.Sparsity(activation=st.Activation24()), engine="native")
    mlp, x, roles = model[0], normal(12, 8), MLPS[name][1]
    first, called = mlp.get_submodule(roles.fc1), []
    handle = first.register_forward_hook(lambda *_: called.append("first"))
    with pytest.warns(UserWarning, match=f"stay dense: {roles.fc1} has hooks"):
        mlp(x)
    assert called == ["first"]
    handle.remove()
    mlp.add_module(roles.fc2, nn.Sequential(mlp.get_submodule(roles.fc2)))
    with pytest.warns(UserWarning, match=f"stay dense: {roles.fc2} is Sequential now"):
        mlp(x)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_dropout_that_is_called_elsewhere_than_its_place_says_is_seen(drop):
    model = nn.ModuleList([seeded(DropsBefore(drop))])
    report = st.sparsify(model, st.Sparsity(), engine="native")
    why = "its forward is not fc2(act(fc1(x)))"
    assert report.fused == f"1 MLP: not as one function, so slower: {why}."


def test_a_dropout_between_that_drops_is_called_and_2_of_4_dropout_takes_its_place():
    model: Any = nn.ModuleList([seeded(MLPBlock(8, 16, 0.25))])
    report = st.sparsify(model, st.Sparsity(), engine="native")
    why = "it drops out between 1 and 3 (2.p is 0.25)"
    assert report.fused == f"1 MLP: not as one function, so slower: {why}."
    st.densify(model)
    dropping = st.Sparsity(weight=None, activation=st.ActivationDropout24())
    st.sparsify(model, dropping, engine="native")
    with OpCalls() as calls:
        model[0](normal(12, 8))
    assert calls.count("random24") == 1


def test_the_dropout_behind_it_drops():
    model: Any = nn.ModuleList([seeded(NanoGpt(0.5))])
    st.sparsify(model, st.Sparsity(), engine="native")
    assert isinstance(model[0], SparseMlp)
    torch.manual_seed(0)
    assert 0.3 < float((model[0](normal(40, 8)) == 0).float().mean()) < 0.7
    assert (model.eval()[0](normal(40, 8)) != 0).all()


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_it_is_one_function_for_inference(name, dtype):
    model: Any = nn.ModuleList([made(name)])
    st.prune(model, st.Magnitude())
    exact, x = copy.deepcopy(model).eval(), normal(12, 8)
    report = st.quantize(model, dtype)
    assert isinstance(model[0], PackedMlp), report.fused
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, expected = model[0](x).float(), exact[0](x).float()
    assert (found - expected).norm() < 0.08 * expected.norm()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
def test_torchvisions_vit_trains_with_all_six_products(compiled):
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=4)
    six = st.Sparsity(("*.mlp.*",), activation=st.Activation24())
    report = st.sparsify(net, six, engine="native")
    assert sum(isinstance(module, SparseMlp) for module in net.modules()) == 2
    assert len(report.converted) == 6
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    st.attach(net, optimizer, total_steps=12)
    images, labels = normal(8, 3, 32, 32), torch.arange(8) % 4
    losses, forward = [], torch.compile(net, backend="eager", fullgraph=True) if compiled else net
    for _ in range(12):
        # The first sparse step is watched without compiled code.
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_torchvisions_swin_has_its_mlps_as_one_function():
    net = SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=4)
    report = st.sparsify(net, st.Sparsity(("*.mlp.*",)), engine="native")
    assert (
        report.fused == "2 MLPs: fc1, GELU and fc2 as one function, until one of them is changed."
    )
