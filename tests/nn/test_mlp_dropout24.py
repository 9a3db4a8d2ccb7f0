"""2:4 dropout in MLPs: where it stands, when it is on, and what is undone."""

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp, engines, normal, seeded
from torch import nn
from torch.nn.utils import prune

import sparsetrain as st
from sparsetrain.patterns import NM
from sparsetrain.products import Engine

DROPPED = st.Sparsity(weight=None, activation=st.ActivationDropout24())


def network(sparsity=DROPPED, engine: Engine = "masked", drop=0.9) -> Any:
    model: Any = nn.Sequential(seeded(Mlp()))
    model[0].drop1.p = drop
    return model, st.sparsify(model, sparsity, engine=engine)


def expected(mlp, x, seed):
    torch.manual_seed(seed)
    h = st.Dropout24()(F.gelu(F.linear(x, mlp.fc1.weight, mlp.fc1.bias)))
    return F.linear(h, mlp.fc2.weight, mlp.fc2.bias)


def test_the_module_is_the_identity_in_evaluation():
    x, drop = normal(4, 8), st.Dropout24()
    assert torch.equal(drop.eval()(x), x)
    assert NM(2, 4).holds(drop.train()(x))


@engines
def test_it_takes_the_place_of_the_dropout_of_an_mlp(engine):
    model, report = network(engine=engine)
    assert [row.runs for row in report.converted] == ["2:4 dropout of the hidden activations"]
    assert "squared ReLU" not in str(report)
    x = normal(2, 8, 8)
    want = expected(model[0], x, 7)
    torch.manual_seed(7)
    torch.testing.assert_close(model(x), want)
    model.eval()
    mlp = model[0]
    h = F.gelu(F.linear(x, mlp.fc1.weight, mlp.fc1.bias))
    assert torch.equal(model(x), F.linear(h, mlp.fc2.weight, mlp.fc2.bias))


@engines
def test_every_parameter_trains_and_dense_phases_have_the_modules_own_dropout(engine):
    model, _ = network(engine=engine)
    model(normal(8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    st.set_sparse(model, False)
    dense: Any = nn.Sequential(seeded(Mlp()))
    dense[0].drop1.p = 0.9
    x = normal(8, 8)
    torch.manual_seed(3)
    want = dense(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), want)


def test_densify_gives_the_module_back():
    model, _ = network()
    st.densify(model)
    assert type(model[0]) is Mlp
    assert model[0].drop1.p == 0.9


class Called(nn.Module):
    """An adapter that has no weight of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


CHANGES = {
    "fc2 has hooks": lambda mlp: mlp.fc2.register_forward_hook(lambda *call: None),
    "fc2 is Called now": lambda mlp: setattr(mlp, "fc2", Called(mlp.fc2)),
    "fc2.weight is computed now": lambda mlp: prune.identity(mlp.fc2, "weight"),
    "norm has hooks": lambda mlp: mlp.norm.register_forward_hook(lambda *call: None),
}


@pytest.mark.parametrize("engine", ["masked", "native"])
@pytest.mark.parametrize("why", CHANGES)
def test_a_layer_that_was_changed_since_is_called_and_said_to_be_no_faster(why, engine):
    model, _ = network(engine=engine)
    mlp, calls, x = model[0], [], normal(8, 8)
    want = expected(mlp, x, 2)
    CHANGES[why](mlp)
    mlp.fc2.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
    torch.manual_seed(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.testing.assert_close(model(x), want)
    said = [str(warning.message) for warning in caught]
    # Masked products are dense in any case.
    assert len(said) == (engine == "native")
    assert all(f"2:4 dropout makes fc2 no faster: {why.split(' has')[0]}" in line for line in said)
    [hidden] = calls
    assert NM(2, 4).holds(hidden)


@pytest.mark.parametrize("change", ["hook", "replace"])
def test_a_dropout_that_was_changed_since_is_called_instead(change):
    model, _ = network(engine="native", drop=0.0)
    mlp, x = model[0], normal(8, 8)
    if change == "hook":
        mlp.drop1.register_forward_hook(lambda _, inputs, out: 3 * out)
    else:
        mlp.drop1 = nn.Tanh()
    with pytest.warns(UserWarning, match="2:4 dropout is off: drop1"):
        y = model(x)
    assert torch.equal(y, mlp.fc2(mlp.drop1(F.gelu(mlp.fc1(x)))))


def test_weights_may_be_sparse_as_well():
    sparsity = st.Sparsity(weight=st.SRSTE(decay=0.1), activation=st.ActivationDropout24())
    model, report = network(sparsity)
    assert len(report.converted) == 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    st.attach(model, optimizer)
    model(normal(8, 8)).square().mean().backward()
    optimizer.step()
    assert st.density(model) == 0.5


def test_a_resumed_run_has_the_losses_of_the_whole_one():
    def steps(model, optimizer, first, last):
        losses = []
        for number in range(first, last):
            torch.manual_seed(number)
            loss = model(normal(8, 8, seed=number)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    def begin():
        sparsity = st.Sparsity(
            weight=None, activation=st.ActivationDropout24(), schedule=st.Schedule(dense_tail=0.25)
        )
        model, _ = network(sparsity, drop=0.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return model, optimizer, st.attach(model, optimizer, total_steps=8)

    parts = begin()
    steps(*parts[:2], 0, 3)
    saved = copy.deepcopy([part.state_dict() for part in parts])
    whole = steps(*parts[:2], 3, 8)
    others = begin()
    for part, state in zip(others, saved, strict=True):
        part.load_state_dict(state)
    assert steps(*others[:2], 3, 8) == whole


def test_an_mlp_that_is_none_of_timms_is_refused_with_the_reason():
    class Gated(Mlp):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(ValueError, match=r"2:4 dropout|its forward is not fc2\(act\(fc1\(x\)\)\)"):
        st.sparsify(nn.Sequential(seeded(Gated())), DROPPED)
