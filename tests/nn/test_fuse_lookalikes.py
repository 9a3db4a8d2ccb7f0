"""MLPs that are fc2(act(fc1(x))) for the numbers that are tried, and not for all others."""

from typing import Any

import pytest
import torch
from nn_checks import Mlp, normal, seeded
from torch import nn

import sparsetrain as st
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


@torch.jit.script
def at_most(x):
    return torch.clamp(x, max=1e6)


OPS = "its forward runs ops that fc2(act(fc1(x))) does not: "


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Clamped, OPS + "clamp, ge, le, logical_and_, scalar_tensor, where"),
        (Branched, OPS + "_local_scalar_dense, gt, max"),
        (ClampsGradient, OPS + "clamp"),
        (Scripted, OPS + "clamp, le, scalar_tensor, where"),
        (Argument, "its forward takes more than x: gate"),
        (ChannelsFirst, "its forward takes channels first too"),
        (Skipped, "its forward draws random numbers"),
        (Detached, "its backward is not that of fc2(act(fc1(x)))"),
        (FrozenFirst, "its backward is not that of fc2(act(fc1(x)))"),
        (Hooked, "its backward is not that of fc2(act(fc1(x)))"),
        (Setting, "its forward depends on p"),
        (Keeps, "its forward keeps what it saw in attributes"),
        (DropsEarly, "its forward is not fc2(act(fc1(x)))"),
    ],
)
def test_a_lookalike_keeps_its_forward_and_the_report_says_why(kind: Any, why):
    mlp = kind(8, 16)
    mlp.act = nn.GELU()
    model = nn.Sequential(mlp)
    report = st.sparsify(model, st.Sparsity(include=("*",)), engine="native")
    assert type(model[0]) is kind
    assert report.fused.endswith(f"not as one function, so slower: {why}.")
    assert all(parameter.grad is None for parameter in model.parameters())


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
