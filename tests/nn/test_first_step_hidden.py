"""What hid a weight that is read past its layer, or made one up."""

import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsetrain as st


class Head(nn.Module):
    """Training reads the weight of `fc` (a fused loss); `calls` says when the layer is called."""

    def __init__(self, calls="never"):
        super().__init__()
        self.body, self.fc, self.calls = nn.Linear(16, 16), nn.Linear(16, 16), calls

    def forward(self, x):
        h, layer = F.relu(self.body(x)), self.fc
        if not self.training:
            return layer(h)
        beside = layer(h) if self.calls == "always" else 0
        if self.calls == "without gradients":
            with torch.no_grad():
                beside = layer(h)
        return F.linear(h, layer.weight) + beside


def attached(model, **schedule):
    torch.manual_seed(0)
    st.sparsify(model, st.Sparsity(schedule=st.Schedule(**schedule)))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    st.attach(model, optimizer, total_steps=8)
    return optimizer


def step(model, optimizer):
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def reads(layer):
    return lambda x: F.linear(x, layer.weight)


@pytest.mark.parametrize("where", ["layer", "parent"])
def test_a_forward_put_on_an_instance_after_the_first_step_is_watched(where):
    model: Any = nn.Sequential(nn.Sequential(nn.Linear(16, 16)), nn.Linear(16, 16))
    optimizer = attached(model)
    for _ in range(2):
        step(model, optimizer)
    layer = model[0][0]
    patched = layer if where == "layer" else model[0]
    patched.forward = reads(layer)
    step(model, optimizer)
    with pytest.raises(RuntimeError, match=r"0\.0: Sequential read .* put on the instance"):
        step(model, optimizer)


def test_a_forward_put_on_an_instance_that_calls_the_layer_is_watched_once():
    model: Any = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    optimizer = attached(model)
    watched = []
    for _ in range(4):
        step(model, optimizer)
        model[0].forward = type(model[0]).forward.__get__(model[0])
        watched.append([layer.watch is not None for layer in model])
    assert watched == [[False, False], [True, False], [False, False], [False, False]]


def test_an_evaluation_before_the_first_step_hides_nothing():
    model = Head()
    optimizer = attached(model)
    model.eval()
    model(torch.randn(8, 16))  # with gradients, too
    with torch.no_grad():
        model(torch.randn(8, 16))
    model.train()
    with pytest.raises(RuntimeError, match="fc: Head read their weight"):
        step(model, optimizer)


def test_a_call_without_gradients_hides_nothing():
    model = Head("without gradients")
    optimizer = attached(model)
    with pytest.raises(RuntimeError, match="fc: Head read their weight"):
        step(model, optimizer)


def test_a_first_step_that_overflows_hides_nothing():
    model = Head("always")
    optimizer = attached(model)
    amp: Any = torch.amp
    scaler = amp.GradScaler("cpu", init_scale=4.0)

    def scaled(factor):
        scaler.scale(factor * model(torch.randn(8, 16)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    scaled(float("inf"))
    scaled(1.0)
    with pytest.raises(RuntimeError, match="beside the sparse product"):
        scaled(1.0)


def test_who_goes_on_after_the_error_is_told_again():
    model = Head("always")
    optimizer = attached(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="beside the sparse product"):
            step(model, optimizer)


@pytest.mark.parametrize("before", [True, False])
def test_hooks_that_change_gradients_are_no_reading_beside(before):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))

    def clamp():
        for parameter in model.parameters():
            parameter.register_hook(lambda grad: grad.clamp(-1e-4, 1e-4))

    if before:
        clamp()
    optimizer = attached(model)
    if not before:
        clamp()
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == 4
    assert max(grad.abs().max() for grad in gradients) <= 1e-4


def test_a_model_trained_in_evaluation_mode_trains():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    optimizer = attached(model, dense_warmup=0.5)
    model.eval()
    sparse = []
    for _ in range(8):
        sparse.append(model[0].sparse)
        step(model, optimizer)
    assert sparse == [False] * 5 + [True] * 3  # a step behind


def test_a_group_added_in_the_sparse_phase_is_watched_from_the_next_step_on():
    model = Head()
    st.sparsify(model, st.Sparsity())
    optimizer = torch.optim.SGD(model.body.parameters(), 0.01)
    model.fc.requires_grad_(False)
    st.attach(model, optimizer)
    step(model, optimizer)
    model.fc.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.fc.parameters())})
    step(model, optimizer)
    with pytest.raises(RuntimeError, match="fc: Head read their weight"):
        step(model, optimizer)


def test_a_model_that_is_thrown_away_before_its_first_step_leaves_compiling_as_it_was():
    model = nn.Sequential(nn.Linear(16, 16))
    attached(model)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    del model
    gc.collect()
    torch.compile(nn.Linear(4, 4), backend=backend)(torch.randn(2, 4))
    assert graphs


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo
def test_a_model_in_a_cycle_that_is_thrown_away_does_not_keep_the_next_one_from_compiling():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    gc.disable()
    try:
        model = nn.Sequential(nn.Linear(16, 16))
        attached(model)
        model.register_forward_hook(lambda module, inputs, output, own=model: None)
        del model
        model = nn.Sequential(nn.Linear(16, 16))
        optimizer = attached(model)
        compiled = torch.compile(model, backend=backend)
        for _ in range(2):
            compiled(torch.randn(8, 16)).square().mean().backward()
            optimizer.step()
    finally:
        gc.enable()
    assert graphs


def test_a_layer_that_torch_compile_took_by_itself_stays_dense():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    compiled: Any = torch.compile(model[0])
    model[0] = compiled
    report = st.sparsify(model, st.Sparsity())
    assert {row.name: row.reason for row in report.skipped} == {
        "0._orig_mod": "torch.compile took it by itself: call sparsify before that"
    }


class Says(nn.Module):
    """Its source names a weight, in a comment and to ask for its type."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x):
        # self.fc.weight is not read
        return self.fc(x.to(self.fc.weight.data.dtype).to(self.fc.weight.detach().device))


def test_comments_and_questions_are_no_reading():
    assert st.sparsify(nn.Sequential(Says()), st.Sparsity()).skipped == ()


def test_factors_of_other_adapters_stay_dense():
    model = nn.ModuleDict({n: nn.Linear(16, 16) for n in ("fc", "lora_a", "lora_down", "lora_B")})
    report = st.sparsify(model, st.Sparsity())
    assert [row.name for row in report.converted] == ["fc"]


def test_a_block_added_to_the_model_and_the_optimizer_is_watched_by_its_name():
    model = nn.Sequential(nn.Linear(16, 16))
    optimizer = attached(model)
    step(model, optimizer)
    head = Head()
    st.sparsify(head, st.Sparsity())
    model.append(head)
    optimizer.add_param_group({"params": head.parameters()})
    step(model, optimizer)
    with pytest.raises(RuntimeError, match=r"1\.fc: Head read their weight"):
        step(model, optimizer)
