"""An MLP that was one function calls its children again once one of them is changed."""

import warnings
from typing import Any

import pytest
import torch
from nn_checks import Mlp, normal, seeded
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

import sparsetrain as st
from sparsetrain.nn import SparseMlp

KINDS = {"GELU": None, "squared ReLU": st.Activation24()}


class Twice(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class Cubed(nn.Module):
    def forward(self, weight):
        return weight**3


def set_dropout(mlp: Any) -> None:
    mlp.drop1.p = 0.5


def patch_forward(mlp: Any) -> None:
    dense = mlp.fc1.forward
    mlp.fc1.forward = lambda x: dense(x) + 1


CHANGES = {
    "fc1 has hooks": lambda mlp: mlp.fc1.register_forward_hook(lambda *call: call[2] + 1),
    "act has hooks": lambda mlp: mlp.act.register_forward_pre_hook(lambda _, x: (x[0] + 1,)),
    "fc2 is Twice now": lambda mlp: setattr(mlp, "fc2", seeded(Twice(16, 8))),
    "fc1.weight is computed now": lambda mlp: prune.l1_unstructured(mlp.fc1, "weight", 0.75),
    "fc2 is Parametrized.* now": lambda mlp: register_parametrization(mlp.fc2, "weight", Cubed()),
    "act is Tanh now": lambda mlp: setattr(mlp, "act", nn.Tanh()),
    "norm is LayerNorm now": lambda mlp: setattr(mlp, "norm", nn.LayerNorm(16)),
    "drop1.p is 0.5 now": set_dropout,
    "drop1 is Tanh now": lambda mlp: setattr(mlp, "drop1", nn.Tanh()),
    "fc1.forward was replaced": patch_forward,
}


def fused(kind: str) -> Any:
    net: Any = nn.Sequential(seeded(Mlp(8, 16)))
    st.sparsify(net, st.Sparsity(activation=KINDS[kind]), engine="native")
    assert isinstance(net[0], SparseMlp)
    return net[0]


def of_its_children(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    return mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(mlp.act(mlp.fc1(x))))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", CHANGES)
def test_a_changed_child_is_called_and_changes_the_output(why, kind):
    mlp, x = fused(kind), normal(6, 8)
    before = mlp(x).detach()
    CHANGES[why](mlp)
    torch.manual_seed(0)
    if kind == "GELU":
        y = mlp(x)
    else:
        with pytest.warns(UserWarning, match=f"hidden activations stay dense: .*{why}"):
            y = mlp(x)
    torch.manual_seed(0)
    assert torch.equal(y, of_its_children(mlp, x))
    assert (y - before).abs().max() > 0.1
    y.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in mlp.parameters())


def test_dropout_between_that_is_off_in_evaluation_is_no_obstacle_there():
    mlp, x = fused("squared ReLU"), normal(6, 8)
    expected = mlp(x)
    set_dropout(mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(mlp.eval()(x), expected)


@pytest.mark.parametrize("dense", ["fc1", "fc2"])
def test_a_linear_of_an_mlp_with_gelu_in_a_dense_phase_of_its_own_runs_dense(dense):
    mlp, x = fused("GELU"), normal(6, 8)
    both = mlp(x).detach()
    st.set_sparse(getattr(mlp, dense), False)
    assert torch.equal(mlp(x), of_its_children(mlp, x))
    assert (mlp(x) - both).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_undone_makes_it_one_function_again(kind):
    mlp, x = fused(kind), normal(6, 8)
    expected = mlp(x)
    handle = mlp.fc1.register_forward_hook(lambda *call: pytest.fail("it was removed"))
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(mlp(x), expected)
