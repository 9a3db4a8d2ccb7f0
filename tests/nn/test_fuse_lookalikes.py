"""MLPs that are fc2(act(fc1(x))) for the numbers that are tried, and not for all others."""

import threading
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from nn_checks import Mlp, normal, seeded
from torch import nn

import sparsetrain as st
from sparsetrain.inference import PackedMlp
from sparsetrain.nn import SparseMlp


class Argument(Mlp):
    def forward(self, x, gate=None):
        return super().forward(x) if gate is None else super().forward(x) * gate


class ChannelsFirst(Mlp):
    def forward(self, x):
        if x.ndim == 4:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().forward(x)


class Skipped(Mlp):
    def forward(self, x):
        y = super().forward(x)
        return y * 0 if self.training and torch.rand(()) < 1e-6 else y


class Detached(Mlp):
    def forward(self, x):
        return super().forward(x.detach())


class FrozenFirst(Mlp):
    def forward(self, x):
        with torch.no_grad():
            h = self.fc1(x)
        return self.drop2(self.fc2(self.act(h)))


class Hooked(Mlp):
    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda grad: 2 * grad)
        return y


class Setting(Mlp):
    def __init__(self, *features):
        super().__init__(*features)
        self.p = 0.0  # a rate that grows in training

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), self.p, self.training)


class Keeps(Mlp):
    def forward(self, x):
        h = self.act(self.fc1(x))
        self.hidden = h  # for a loss of the model's
        return self.drop2(self.fc2(h))


class Overwrites(Mlp):
    def __init__(self, *features):
        super().__init__(*features)
        self.seen = {"h": torch.zeros(())}  # as after a first forward

    def forward(self, x):
        self.seen["h"] = h = self.act(self.fc1(x))
        return self.drop2(self.fc2(h))


class Repeats(Mlp):
    def __init__(self, *features):
        super().__init__(*features)
        self.times = 1  # more later

    def forward(self, x):
        for _ in range(self.times):
            x = super().forward(x)
        return x


class RepeatsOnImages(Repeats):
    def forward(self, x):
        if x.ndim != 4:
            raise ValueError(x.shape)
        return super().forward(x)


class Scored(Mlp):
    def forward(self, x):
        return super().forward(x) if torch.is_grad_enabled() else 2 * super().forward(x)


class Float32(Mlp):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class Float32OnGpu(Mlp):
    def forward(self, x):
        with torch.autocast("cuda", enabled=False):
            return super().forward(x.float())


class DropsEarly(Mlp):
    def forward(self, x):
        return self.fc2(self.drop2(self.act(self.fc1(x))))


class Clamped(Mlp):
    def forward(self, x):
        return super().forward(x.clamp(-1e6, 1e6))


class Branched(Mlp):
    def forward(self, x):
        return super().forward(x / 2 if x.max() > 1e6 else x)


class ClampsGradient(Mlp):
    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda grad: grad.clamp(-1e6, 1e6))
        return y


class Scripted(Mlp):
    def forward(self, x):
        return super().forward(at_most(x))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # newer PyTorch deprecates it

    @torch.jit.script
    def at_most(x):
        return torch.clamp(x, max=1e6)


OPS = "its forward runs ops that fc2(act(fc1(x))) does not: "
"""What is behind `clamp` is of its gradient, and depends on PyTorch's version."""


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Clamped, OPS + "clamp, "),
        (Branched, OPS + "_local_scalar_dense, gt, max."),
        (ClampsGradient, OPS + "clamp."),
        (Scripted, OPS + "clamp, "),
        (Argument, "its forward takes more than x: gate"),
        (ChannelsFirst, "its forward takes channels first too"),
        (Skipped, "its forward draws random numbers"),
        (Detached, "its backward is not that of fc2(act(fc1(x)))"),
        (FrozenFirst, "its backward is not that of fc2(act(fc1(x)))"),
        (Hooked, "its backward is not that of fc2(act(fc1(x)))"),
        (Setting, "its forward depends on p"),
        (Keeps, "its forward keeps what it saw in attributes"),
        (Overwrites, "its forward keeps what it saw in attributes"),
        (Repeats, "its forward depends on times"),
        (RepeatsOnImages, "its forward depends on times"),
        (Scored, "its forward is another one without gradients"),
        (Float32, "its forward is another one in autocast"),
        (Float32OnGpu, "its forward is another one in autocast"),
        (DropsEarly, "its forward is not fc2(act(fc1(x)))"),
    ],
)
def test_a_lookalike_keeps_its_forward_and_the_report_says_why(kind: Any, why):
    mlp = kind(8, 16)
    mlp.act = nn.GELU()
    model = nn.Sequential(mlp)
    report = st.sparsify(model, st.Sparsity(include=("*",)), engine="native")
    assert type(model[0]) is kind
    assert f"not as one function, so slower: {why}" in report.fused
    assert all(parameter.grad is None for parameter in model.parameters())


class Unused(Mlp):
    """Its activation is a function, and the module beside it does nothing."""

    def __init__(self, *features):
        super().__init__(*features)
        del self.act
        self.act, self.activation_fn = nn.functional.gelu, nn.GELU()


def why_not_fused(mlp: nn.Module) -> str:
    report = st.sparsify(nn.Sequential(mlp), st.Sparsity(), engine="native")
    return report.fused.removeprefix("1 MLP: not as one function, so slower: ")


@pytest.mark.parametrize("value", [0, torch.nan, torch.inf])
def test_weights_that_hide_a_difference_are_tried_with_others(value):
    one = "1 MLP: fc1, GELU and fc2 as one function, until one of them is changed."
    for kind, why in ((DropsEarly, "its forward is not fc2(act(fc1(x)))."), (Mlp, one)):
        mlp = kind()
        for parameter in mlp.fc2.parameters():
            nn.init.constant_(parameter, value)
        assert why_not_fused(mlp) == why


@pytest.mark.parametrize("name", ["method", "product", "phase", "watch"])
def test_an_attribute_of_its_own_is_not_overwritten(name):
    mlp: Any = Mlp()
    setattr(mlp, name, "mine")
    assert why_not_fused(mlp) == f"its own {name} would be overwritten."
    assert getattr(mlp, name) == "mine"


def test_an_activation_that_the_forward_does_not_call_is_none():
    assert why_not_fused(Unused()) == "its forward is not fc2(act(fc1(x)))."


def test_a_hook_inside_an_activation_runs_as_before_and_not_in_the_trial():
    mlp: Any = Mlp()
    mlp.act, seen = nn.Sequential(OrderedDict(inner=nn.GELU())), []
    mlp.act[0].register_forward_hook(lambda *given: seen.append(1))
    assert why_not_fused(mlp) == "act.inner has hooks, which would not run."
    assert seen == []


def test_an_activation_that_cannot_be_copied_is_named():
    mlp: Any = Mlp()
    mlp.act.lock = threading.Lock()
    assert why_not_fused(mlp) == "copying its activation raises TypeError."


def test_on_the_meta_device_the_activation_is_tried_with_numbers_of_its_own():
    with torch.device("meta"):
        mlp: Any = Mlp()
        mlp.act = nn.PReLU()
        model = nn.Sequential(mlp)
        st.sparsify(model, st.Sparsity(activation=st.Activation24()), engine="native")
    assert isinstance(model[0], SparseMlp)


def test_an_mlp_is_one_function_when_it_is_quantized_under_inference_mode():
    for made_there in (False, True):
        with torch.inference_mode(made_there):
            model = nn.Sequential(seeded(Mlp()))
        with torch.inference_mode():
            st.prune(model, st.Magnitude())
            report = st.quantize(model)
        assert isinstance(model[0], PackedMlp), report.fused


class Bare(Mlp):
    """timm's `Mlp` without what it need not have."""

    def __init__(self, *features):
        super().__init__(*features)
        self.norm = self.drop2 = None

    def forward(self, x):
        return self.fc2(self.drop1(self.act(self.fc1(x))))


ACTIVATIONS = None, st.Activation24(), st.ActivationDropout24()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_an_mlp_without_norm_and_second_dropout_is_one_function(activation):
    model: Any = nn.Sequential(seeded(Bare(8, 16)))
    st.sparsify(model, st.Sparsity(activation=activation), engine="native")
    assert isinstance(model[0], SparseMlp)
    torch.manual_seed(0)
    y = model(normal(6, 8))
    torch.manual_seed(0)
    assert torch.equal(y, model(normal(6, 8)))
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class Reshapes(Mlp):
    def forward(self, x):
        y = super().forward(x.contiguous().reshape(-1, x.shape[-1]))
        return y.view(x.shape)


def test_views_and_copies_change_no_values_and_are_no_obstacle():
    model: Any = nn.Sequential(seeded(Reshapes(8, 16)))
    st.sparsify(model, st.Sparsity(), engine="native")
    assert isinstance(model[0], SparseMlp)
