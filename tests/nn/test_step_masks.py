"""No layer keeps a mask for one step alone: each forward chooses it from the weight as it is."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsetrain as st


def attached(**schedule) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False))
    sparsity = st.Sparsity(weight=st.SRSTE(decay=0.1), schedule=st.Schedule(**schedule))
    st.sparsify(model, sparsity, engine="masked")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return model, optimizer, st.attach(model, optimizer, total_steps=8)


def step(model, optimizer):
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def mask_of(weight):
    return st.ops.select24(weight, "transposable")


def under_its_own_mask(layer, x):
    weight = layer.weight.detach()
    return F.linear(x, st.ops.mask24(weight, mask_of(weight)))


def perturbed(layer):
    """As SAM does before its second forward."""
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))


def written_past_autograd(layer):
    layer.weight.data = torch.randn_like(layer.weight)


def interpolated(layer):
    """As Lookahead does after a step."""
    layer.weight.data.lerp_(torch.randn_like(layer.weight), 0.5)


@pytest.mark.parametrize("change", [perturbed, written_past_autograd, interpolated])
def test_a_weight_that_changed_after_the_step_is_used_under_its_own_mask(change):
    model, optimizer, _ = attached()
    step(model, optimizer)
    before = mask_of(model[0].weight.detach())
    change(model[0])
    assert not torch.equal(mask_of(model[0].weight.detach()), before)
    x = torch.randn(4, 16)
    assert torch.equal(model(x), under_its_own_mask(model[0], x))


def test_masks_of_several_steps_stay_where_the_weight_is_changed_in_between():
    model, optimizer, _ = attached(mask_every=4)
    step(model, optimizer)
    kept = model[0].mask.clone()
    perturbed(model[0])
    x = torch.randn(4, 16)
    assert torch.equal(model(x), F.linear(x, st.ops.mask24(model[0].weight.detach(), kept)))


def test_freezing_keeps_the_masks_of_the_step_before():
    model, optimizer, _ = attached(freeze_at=0.5)
    last = mask_of(model[0].weight.detach())
    for _ in range(4):
        last = mask_of(model[0].weight.detach())
        assert st.sparse_state(model)["0"]["mask"] is None
        step(model, optimizer)
    for _ in range(2):
        assert torch.equal(model[0].mask, last)
        step(model, optimizer)


@pytest.mark.parametrize("dense_warmup", [0.0, 1.0])  # virtual masks flip too
def test_flips_of_masks_that_nobody_keeps_are_counted_where_it_is_asked(dense_warmup):
    model, optimizer, run = attached(dense_warmup=dense_warmup)
    step(model, optimizer)
    assert st.inspect(model)[0].flip_rate is None
    for counted in (True, True, False, False, True):
        run.masks.counts_flips = counted
        before = mask_of(model[0].weight.detach())
        step(model, optimizer)
        flips = st.ops.flips24(mask_of(model[0].weight.detach()), before)
        rate = int(flips) / model[0].weight.numel()
        assert rate > 0
        assert st.inspect(model)[0].flip_rate == (rate if counted else None)


def test_a_state_with_masks_of_an_earlier_version_goes_on_without_them():
    model, optimizer, run = attached()
    step(model, optimizer)
    state: Any = st.sparse_state(model)
    assert state["0"]["mask"] is None
    state["0"]["mask"] = mask_of(model[0].weight.detach())
    run.load_state_dict(state)
    step(model, optimizer)
    assert model[0].mask is None
