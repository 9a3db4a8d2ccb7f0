"""A decay that cannot arrive is told, and only that."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm

import sparsetrain as st


def attached(method: st.STE, mask_every=1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    st.sparsify(model, st.Sparsity(weight=method, schedule=st.Schedule(mask_every=mask_every)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "compute", [spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)]
)
def test_a_weight_that_is_computed_since_the_first_step_is_refused_where_it_decays(compute):
    model, optimizer = attached(st.SRSTE())
    step(model, optimizer)
    compute(model[0])
    with pytest.raises(RuntimeError, match=r"0\.weight is computed .* SR-STE's decay cannot"):
        step(model, optimizer)


def test_masks_that_last_are_not_chosen_from_what_a_hook_computed_before_the_step():
    model, optimizer = attached(st.STE(), mask_every=2)
    prune.l1_unstructured(model[0], "weight", 0.3)
    with pytest.raises(RuntimeError, match="choice of masks after the step cannot"):
        step(model, optimizer)


def test_masks_of_each_forward_are_of_the_weight_that_a_hook_computes():
    model, optimizer = attached(st.STE())
    prune.l1_unstructured(model[0], "weight", 0.3)
    step(model, optimizer)
    step(model, optimizer)


def test_a_frozen_layer_misses_no_decay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    st.sparsify(model, st.Sparsity(weight=st.SRSTE()))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    st.attach(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, optimizer)
