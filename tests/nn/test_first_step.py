"""The run checks itself: what is reported sparse is multiplied sparse, or its first step raises."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsetrain as st
from sparsetrain.schedule import Schedule

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo


class Reads(nn.Module):
    """Reads the weight of a linear child in a way that no source search finds."""

    def __init__(self, also_calls=False, eager_only=False):
        super().__init__()
        self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 16)
        self.also_calls = also_calls

    def forward(self, x):
        q = getattr(self, "q")  # noqa: B009
        weight = q._parameters["weight"]
        y = F.linear(x, weight, q.bias)
        return self.k(y + q(x) if self.also_calls else y)


class Routed(nn.Module):
    """Experts, of which one is used at a time."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.use = 0

    def forward(self, x):
        return self.experts[self.use](x)


def attached(model, **schedule) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(model)
    st.sparsify(model, st.Sparsity(schedule=Schedule(**schedule)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, optimizer, st.attach(model, optimizer, total_steps=8)


def step(model, optimizer, forward=None):
    (forward or model)(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_weight_that_is_read_past_its_layer_is_an_error_that_names_it():
    model, optimizer, _ = attached(Reads())
    with pytest.raises(RuntimeError, match=r"0\.q: Reads read their weight without calling them"):
        step(model, optimizer)


def test_a_weight_that_is_read_beside_its_layer_is_an_error_that_names_it():
    model, optimizer, _ = attached(Reads(also_calls=True))
    with pytest.raises(RuntimeError, match=r"0\.q: Reads read the dense weight beside"):
        step(model, optimizer)


class Block(nn.Module):
    """An MLP, whose children it may call itself."""

    def __init__(self, past=False):
        super().__init__()
        self.mlp, self.past = Mlp(16, 32), past

    def forward(self, x):
        mlp = self.mlp
        return mlp.fc2(mlp.act(mlp.fc1(x))) if self.past else mlp(x)


@pytest.mark.parametrize("activation", [st.Activation24(), st.ActivationDropout24()])
@pytest.mark.parametrize("how", ["parent", "instance"])
def test_an_mlp_whose_children_are_called_without_it_is_an_error_that_names_it(how, activation):
    torch.manual_seed(0)
    model: Any = nn.Sequential(Block(past=how == "parent"))
    st.sparsify(model, st.Sparsity(weight=None, activation=activation))
    if how == "instance":
        mlp = model[0].mlp
        mlp.forward = lambda x: mlp.fc2(mlp.act(mlp.fc1(x)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer)
    what = r"0\.mlp: Block \(or a forward put on the instance\) computes .* activations are dense"
    with pytest.raises(RuntimeError, match=what):
        step(model, optimizer)


def test_an_mlp_that_is_called_passes_and_one_whose_weights_another_trains_is_idle():
    model: Any = nn.Sequential(Block(), Block())
    for fc in ("fc1", "fc2"):
        getattr(model[1].mlp, fc).weight = getattr(model[0].mlp, fc).weight
    st.sparsify(model, st.Sparsity(weight=None, activation=st.Activation24()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = st.attach(model, optimizer)
    step(model, optimizer, model[0])
    assert handle.idle == ["1.mlp"]
    step(model, optimizer)
    assert handle.idle == []


def test_a_penalty_on_the_weight_is_read_beside_and_can_be_allowed():
    model, optimizer, _ = attached(nn.Linear(16, 16))

    def penalized(x):
        return model(x) + model[0].weight.square().sum()

    with pytest.raises(RuntimeError, match="check=False"):
        step(model, optimizer, penalized)
    st.attach(model, optimizer, total_steps=8, check=False)
    step(model, optimizer, penalized)


@pytest.mark.parametrize("also_calls", [False, True])
def test_compiled_code_does_not_hide_it(also_calls):
    model = nn.Sequential(Reads(also_calls))
    compiled = torch.compile(model, backend="eager")
    st.sparsify(model, st.Sparsity())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer)
    with pytest.raises(RuntimeError, match=r"0\.q: Reads read"):
        step(model, optimizer, compiled)


def test_compiled_code_runs_from_the_second_step_on():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model, optimizer, run = attached(nn.Linear(16, 16))
    compiled = torch.compile(model, backend=backend)
    step(model, optimizer, compiled)
    compiled_in_the_first = len(graphs)
    step(model, optimizer, compiled)
    step(model, optimizer, compiled)
    assert compiled_in_the_first == 0
    assert graphs
    assert run.idle == []


def test_the_check_waits_for_the_sparse_phase():
    model, optimizer, _ = attached(Reads(), dense_warmup=0.25)
    step(model, optimizer)
    step(model, optimizer)
    with pytest.raises(RuntimeError, match="reported sparse are not"):
        step(model, optimizer)


def test_a_layer_that_is_not_used_is_idle_until_it_is():
    model, optimizer, run = attached(Routed())
    step(model, optimizer)
    assert run.idle == ["0.experts.1", "0.experts.2"]
    model[0].use = 1
    step(model, optimizer)
    assert run.idle == ["0.experts.2"]


class Adapter(nn.Module):
    """One around a frozen layer that adds to its weight, or to its output."""

    def __init__(self, reads):
        super().__init__()
        self.base_layer, self.reads = nn.Linear(16, 16).requires_grad_(False), reads
        self.delta = nn.Parameter(torch.zeros(16, 16))

    def forward(self, x):
        base = self.base_layer
        if self.reads:
            return F.linear(x, base.weight + self.delta, base.bias)
        return base(x) + F.linear(x, self.delta)


@pytest.mark.parametrize("last", [[], [nn.Linear(16, 16)]], ids=["all frozen", "one trains"])
def test_a_frozen_layer_whose_adapter_reads_it_is_an_error(last):
    model = nn.Sequential(Adapter(reads=False), Adapter(reads=True), *last)
    st.sparsify(model, st.Sparsity())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    st.attach(model, optimizer, total_steps=8)
    with pytest.raises(RuntimeError, match=r"not: 1\.base_layer: Adapter read their weight"):
        step(model, optimizer)


@pytest.mark.parametrize("held", [False, True])
def test_frozen_layers_are_idle_until_they_run(held):
    torch.manual_seed(0)
    model: Any = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
    model[:2].requires_grad_(False)
    st.sparsify(model, st.Sparsity())
    optimizer = torch.optim.SGD(model.parameters() if held else model[2].parameters(), 0.1)
    run = st.attach(model, optimizer)
    with torch.no_grad():
        x = model[0](torch.randn(4, 16))  # a teacher
    step(model[2], optimizer)
    assert run.idle == ["1"]
    model[2](model[1](x)).sum().backward()
    optimizer.step()
    assert run.idle == []


def test_an_expert_that_is_first_used_in_compiled_code_is_looked_at_again():
    model, optimizer, run = attached(Routed())
    compiled = torch.compile(model, backend="eager")
    step(model, optimizer, compiled)
    model[0].use = 1
    step(model, optimizer, compiled)
    step(model, optimizer, compiled)
    assert run.idle == ["0.experts.2"]


def test_gradients_that_are_zeroed_in_place_do_not_look_like_use():
    model, optimizer, run = attached(Routed())
    for expert in model[0].experts:
        expert.weight.grad = torch.zeros_like(expert.weight)
    step(model, optimizer)
    assert len(run.idle) == 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_and_shared_layers_pass(reentrant):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            x = self.a(x)
            for layer in (self.b, self.b, self.a):
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return x

    model, optimizer, run = attached(Twice())
    step(model, optimizer)
    assert run.idle == []


def test_two_optimizers_look_at_their_own_layers():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
    st.sparsify(model, st.Sparsity())
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in model]
    run = st.attach(model, optimizers)
    for _ in range(2):
        for layer, optimizer in zip(model, optimizers, strict=True):
            step(layer, optimizer)
    assert run.idle == []


def test_a_resumed_run_is_not_checked_again():
    model, optimizer, run = attached(nn.Linear(16, 16))
    step(model, optimizer)
    state = run.state_dict()
    assert state["0"]["checked"]
    again, optimizer, run = attached(nn.Linear(16, 16))
    run.load_state_dict(state)
    st.attach(again, optimizer, total_steps=8)
    assert again[0].watch is None


class Tied(nn.Module):
    """Three uses of one weight: two layers and, if it is to, a product past them."""

    def __init__(self, reads=False):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.reads, self.calls_b = reads, True

    def forward(self, x):
        x = self.a(x)
        x = self.b(x) if self.calls_b else x
        weight: Any = self.a._parameters["weight"]
        return self.c(F.linear(x, weight) if self.reads else x)


def test_layers_on_one_weight_pass_together():
    model, optimizer, handle = attached(Tied())
    for _ in range(2):
        step(model, optimizer)
    assert handle.idle == []


def test_a_weight_of_two_layers_that_is_read_beside_them_is_an_error():
    model, optimizer, _ = attached(Tied(reads=True))
    with pytest.raises(RuntimeError, match=r"0\.a, 0\.b: Tied read the dense weight beside"):
        step(model, optimizer)


def test_a_layer_whose_weight_another_layer_trains_is_idle_until_it_is_called():
    model, optimizer, handle = attached(Tied())
    model[0].calls_b = False
    step(model, optimizer)
    assert handle.idle == ["0.b"]
    model[0].calls_b = True
    step(model, optimizer)
    assert handle.idle == []
