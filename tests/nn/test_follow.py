"""Averages of weights are evaluated as the model that they are averages of."""

import copy
from typing import Any

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsetrain as st
from sparsetrain.ops import select24

STEPS, TWO_OF_FOUR = 10, st.NM(2, 4)
SCHEDULES = {
    "kept": {"mask_every": 4},
    "frozen": {"freeze_at": 0.5},
    "warmup": {"dense_warmup": 0.3},
    "tail": {"dense_tail": 0.3, "mask_every": 4},
}


def sparse_model(weight=None, pattern=TWO_OF_FOUR, **schedule) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    given = {"weight": weight or st.STE(), "pattern": pattern}
    st.sparsify(model, st.Sparsity(**given, schedule=st.Schedule(**schedule)))
    return model


def average_of(kind, model) -> Any:
    if kind == "timm":
        return ModelEmaV3(model, decay=0.5)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))


def train(model, average, optimizer, steps):
    for _ in range(steps):
        x, y = torch.randn(2, 32, 16)
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(average, ModelEmaV3):
            average.update(model)
        else:
            average.update_parameters(model)


@pytest.mark.parametrize("kind", ["timm", "torch"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [2, STEPS])
def test_an_average_made_before_anything_is_evaluated_as_the_model(kind, schedule, steps):
    model = sparse_model(**SCHEDULES[schedule])
    average = average_of(kind, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    st.attach(model, optimizer, total_steps=STEPS)
    train(model, average, optimizer, steps)
    st.follow(average, model)
    for module in (model.eval(), average.eval()):
        module(torch.randn(4, 16))
    assert st.density(average) == st.density(model)
    for layer, other in zip(
        (average.module[0], average.module[2]), (model[0], model[2]), strict=True
    ):
        assert not torch.equal(layer.weight, other.weight)
        own = select24(layer.weight.detach(), layer.selection.rule)
        frozen = schedule == "frozen" and steps == STEPS
        assert torch.equal(layer.current_mask(), other.mask if frozen else own)
        assert not frozen or not torch.equal(own, other.mask), "else this proves nothing"


@pytest.mark.parametrize("pattern", [st.NM(), st.Block(4, 4, 0.5), st.VNM(4, 2, 8)], ids=str)
@pytest.mark.parametrize("freeze_at", [None, 0.5])
def test_a_copy_chooses_masks_of_its_own_unless_they_were_frozen_before(pattern, freeze_at):
    model = sparse_model(pattern=pattern, mask_every=4, freeze_at=freeze_at)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    st.attach(model, optimizer, total_steps=STEPS)
    average = average_of("timm", model)
    train(model, average, optimizer, STEPS)
    early, late = average.module[0].eval(), copy.deepcopy(model)[0].eval()
    assert torch.equal(early.current_mask(), early._choose(early.weight))
    nn.init.normal_(late.weight)
    own = late._choose(late.weight)
    assert torch.equal(late.current_mask(), model[0].mask if freeze_at else own)


def test_the_soft_threshold_of_an_average_has_the_scale_of_the_model():
    model = sparse_model(st.SSTE(), dense_warmup=0.5)
    average = average_of("timm", model)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    st.attach(model, optimizer, total_steps=STEPS)
    train(model, average, optimizer, STEPS)
    assert not torch.equal(average.module[0].scale, model[0].scale)
    st.follow(average, model)
    assert torch.equal(average.module[0].scale, model[0].scale)


def test_what_follows_changes_nothing_of_the_model_and_keeps_its_weights():
    model = sparse_model(freeze_at=0.0)
    average = average_of("timm", model)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    st.attach(model, optimizer, total_steps=STEPS)
    train(model, average, optimizer, 2)
    before, weight = st.sparse_state(model), average.module[0].weight.clone()
    st.follow(average, model)
    st.update_masks(average)
    after = st.sparse_state(model)
    assert str(before) == str(after)
    assert torch.equal(average.module[0].weight, weight)


def test_a_model_that_is_no_copy_is_refused():
    model = sparse_model()
    with pytest.raises(ValueError, match="average: it has 0 sparse layers and is no copy"):
        st.follow(nn.Sequential(nn.Linear(16, 32)), model)
    other = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 32))
    st.sparsify(other, st.Sparsity())
    with pytest.raises(ValueError, match="average: it has 2 sparse layers and is no copy"):
        st.follow(other, model)
