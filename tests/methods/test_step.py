"""STEP: the second moment of Adam is that of the dense warm-up."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st

SHAPE = (8, 16)
SPARSITY = st.Sparsity(weight=st.STEP(), schedule=st.Schedule(dense_warmup=0.5))
kinds = pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True}], ids=str
)


def trained(steps, options, kind: Any = torch.optim.AdamW) -> tuple[Any, Any, Any]:
    """A linear layer after so many of 40 steps, 20 of them dense, its optimizer and its handle."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SHAPE[1], SHAPE[0]))
    st.sparsify(model, SPARSITY)
    optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.0, **options)
    handle = st.attach(model, optimizer, total_steps=40)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer, handle


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(32, SHAPE[1])).square().mean().backward()
    optimizer.step()


def second_moment(model, optimizer):
    return optimizer.state[model[0].weight]["exp_avg_sq"]


@kinds
def test_it_is_frozen_where_the_sparse_phase_begins_without_its_bias(options):
    model, optimizer, _ = trained(19, options)
    assert not model[0].sparse
    step(model, optimizer)
    assert model[0].sparse
    again, its, _ = trained(19, options)
    before = second_moment(again, its).clone()
    grads = its.state[again[0].weight]["exp_avg"]
    assert grads.abs().max() > 0
    after = second_moment(model, optimizer).clone()
    # 0.999 of what step 19 left and 0.001 of the square of the last gradient, over 1 - 0.999^20
    assert (after * (1 - 0.999**20) >= 0.999 * before * (1 - 1e-5)).all()
    for _ in range(20):
        step(model, optimizer)
    torch.testing.assert_close(second_moment(model, optimizer), after, rtol=1e-5, atol=1e-7)


@kinds
def test_a_sparse_step_is_the_first_moment_over_the_root_of_that_second_one(options):
    model, optimizer, _ = trained(20, options)
    moment = optimizer.state[model[0].weight]["exp_avg"].clone()
    name = "max_exp_avg_sq" if options.get("amsgrad") else "exp_avg_sq"
    root = optimizer.state[model[0].weight][name].sqrt()
    weight = model[0].weight.detach().clone()
    step(model, optimizer)
    moment.lerp_(model[0].weight.grad, 0.1)
    expected = weight - 1e-2 * moment / (root + 1e-8)
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_keeps_it():
    model, optimizer, handle = trained(25, {})
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict(), handle.state_dict()])
    torch.manual_seed(1)
    for _ in range(5):
        step(model, optimizer)
    other, its, its_handle = trained(0, {})
    other.load_state_dict(saved[0])
    its.load_state_dict(saved[1])
    its_handle.load_state_dict(saved[2])
    torch.manual_seed(1)
    for _ in range(5):
        step(other, its)
    assert torch.equal(other[0].weight, model[0].weight)


def test_without_a_warm_up_or_a_second_moment_it_is_refused():
    model = nn.Sequential(nn.Linear(16, 8))
    st.sparsify(model, st.Sparsity(weight=st.STEP()))
    with pytest.raises(ValueError, match=r"STEP\(\) with optimizer=AdamW: .*dense_warmup=0.1"):
        st.attach(model, torch.optim.AdamW(model.parameters()), total_steps=40)


@pytest.mark.parametrize("kind", ["SGD", "Adafactor", "NAdam", "Adamax"])
def test_another_optimizer_than_adam_is_refused_before_its_warm_up(kind):
    with pytest.raises(ValueError, match=rf"STEP\(\) with optimizer={kind}: .*Adam or AdamW"):
        trained(0, {}, getattr(torch.optim, kind))


class WithoutCorrection(torch.optim.Optimizer):
    """ADOPT's state: Adam's keys, which it reads without Adam's bias corrections."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p] or {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.ones_like(p),
                }
                self.state[p] = state


def test_a_state_with_the_names_of_adams_is_not_taken_for_it():
    def made(parameters, lr, weight_decay):
        return WithoutCorrection(parameters, {"lr": lr, "betas": (0.9, 0.9999)})

    with pytest.raises(ValueError, match=r"optimizer=WithoutCorrection: .*Adam or AdamW"):
        trained(20, {}, made)


def test_an_optimizer_made_anew_in_the_sparse_phase_needs_the_state_of_the_old_one():
    model, optimizer, handle = trained(25, {})
    saved = handle.state_dict()
    handle.detach()
    new = torch.optim.AdamW(model.parameters(), lr=1e-2)
    st.attach(model, new, total_steps=40).load_state_dict(saved)
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="group 0 of AdamW was made in the sparse phase"):
        step(model, new)
    assert torch.equal(model[0].weight, before)
    new.load_state_dict(optimizer.state_dict())
    step(model, new)
    assert not torch.equal(model[0].weight, before)
