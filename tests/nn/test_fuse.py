"""Which MLPs with GELU become one function, and that nothing else changes."""

from typing import Any

import pytest
import torch
from nn_checks import Mlp, normal, seeded
from torch import nn

import sparsetrain as st
from sparsetrain.nn import SparseMlp
from sparsetrain.select import EXACT, GREEDY, ROW


class Net(nn.Module):
    """One MLP of a kind, in another module."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp(x)


class Residual(Mlp):
    def forward(self, x):
        return x + super().forward(x)


class Dropping(Mlp):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class Scaled(Mlp):
    def forward(self, x, scale):
        return scale * super().forward(x)


def with_gelu(mlp: Any, approximate: str = "none") -> Any:
    mlp.act = nn.GELU(approximate)
    return mlp


def sparse(mlp: nn.Module, engine: Any = "native", **options: Any) -> tuple[Any, st.Report]:
    net = seeded(Net(mlp))
    report = st.sparsify(net, st.Sparsity(**options), engine=engine)
    return net, report


def step(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    out = net(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("selection", [EXACT, GREEDY, ROW], ids=str)
def test_a_fused_mlp_computes_what_its_layers_did(selection, approximate):
    net, report = sparse(with_gelu(Mlp(8, 16), approximate), selection=selection)
    masked, none = sparse(with_gelu(Mlp(8, 16), approximate), "masked", selection=selection)
    assert isinstance(net.mlp, SparseMlp)
    assert report.fused == (
        "1 MLP: fc1, GELU and fc2 as one function, until one of them is changed."
    )
    assert report.fused in str(report)
    assert none.fused == ""
    assert type(masked.mlp) is Mlp
    x = normal(6, 8)
    for ours, expected in zip(step(net, x), step(masked, x), strict=True):
        torch.testing.assert_close(ours, expected)


def hooked(name: str, register: str) -> Any:
    mlp = with_gelu(Mlp(8, 16))
    getattr(getattr(mlp, name), register)(lambda *call: None)
    return mlp


OTHER = "its forward is not fc2(act(fc1(x)))"


@pytest.mark.parametrize(
    ("mlp", "why"),
    [
        (with_gelu(Residual(8, 16)), OTHER),
        (with_gelu(Dropping(8, 16)), OTHER),
        (with_gelu(Scaled(8, 16)), "its forward takes more than x: scale"),
        (hooked("act", "register_forward_hook"), "act has hooks, which would not run"),
        (hooked("fc1", "register_full_backward_hook"), "fc1 has hooks, which would not run"),
        (hooked("fc2", "register_forward_pre_hook"), "fc2 has hooks, which would not run"),
    ],
    ids=["residual", "dropout", "argument", "act hook", "backward hook", "pre-hook"],
)
def test_an_mlp_that_does_something_else_keeps_its_forward_and_the_report_says_why(mlp, why):
    kind = type(mlp)
    net, report = sparse(mlp)
    assert type(net.mlp) is kind
    assert report.fused == f"1 MLP: not as one function, so slower: {why}."
    assert net.mlp.training


@pytest.mark.parametrize("method", [st.STE(mvue=True), st.SSTE()])
def test_methods_with_products_of_their_own_are_not_fused(method):
    net = seeded(Net(with_gelu(Mlp(8, 16))))
    report = st.sparsify(net, st.Sparsity(weight=method), engine="native")
    assert type(net.mlp) is Mlp
    assert report.fused.endswith("slower: MVUE and S-STE have products of their own.")


def test_the_report_counts_mlps_of_the_same_kind():
    net = nn.Sequential(*(Net(with_gelu(kind(8, 16))) for kind in (Mlp, Residual, Mlp, Residual)))
    report = st.sparsify(net, st.Sparsity(include=("*",)), engine="native")
    assert [line.partition(":")[0] for line in report.fused.splitlines()] == ["2 MLPs", "2 MLPs"]


def test_an_mlp_that_is_the_model_is_not_fused():
    report = st.sparsify(with_gelu(Mlp(8, 16)), st.Sparsity(include=("*",)), engine="native")
    assert report.fused.endswith("slower: it is the model itself, wrap it in another module.")


def test_trying_an_mlp_leaves_random_numbers_and_modes_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    net = seeded(Net(with_gelu(Mlp(8, 16)))).eval()
    torch.manual_seed(3)
    st.sparsify(net, st.Sparsity(), engine="native")
    assert torch.equal(torch.rand(2), expected)
    assert not any(module.training for module in net.modules())


def test_state_of_a_fused_model_is_that_of_one_that_is_not():
    net, _ = sparse(with_gelu(Mlp(8, 16)))
    masked, _ = sparse(with_gelu(Mlp(8, 16)), "masked")
    st.update_masks(net)
    state = st.sparse_state(net)
    assert state.keys() == st.sparse_state(masked).keys() == {"mlp.fc1", "mlp.fc2"}
    with torch.no_grad():
        for parameter in masked.parameters():
            parameter.neg_()
        masked.load_state_dict(net.state_dict())
    st.load_sparse_state(masked, state)
    x = normal(6, 8)
    torch.testing.assert_close(net(x), masked(x))
    st.set_sparse(masked, False)
    st.load_sparse_state(net, st.sparse_state(masked))
    assert not net.mlp.sparse
    torch.testing.assert_close(net(x), masked(x))


def test_densify_gives_the_module_back():
    net, _ = sparse(with_gelu(Mlp(8, 16)))
    x = normal(6, 8)
    expected = net(x)
    st.densify(net, apply_masks=True)
    assert type(net.mlp) is Mlp
    assert type(net.mlp.act) is nn.GELU
    torch.testing.assert_close(net(x), expected)


def test_a_fused_mlp_refuses_nan_under_anomaly_detection():
    net, _ = sparse(with_gelu(Mlp(8, 16)))
    with torch.no_grad():
        net.mlp.fc2.weight[1, 2] = torch.nan
    with torch.autograd.set_detect_anomaly(True), pytest.raises(ValueError, match="holds 1 NaN"):
        net(normal(6, 8))
