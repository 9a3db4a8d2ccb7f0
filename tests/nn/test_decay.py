"""attach: SR-STE inside the optimizer step, against SR-STE written out."""

import copy

import pytest
import torch
from nn_checks import normal, seeded
from torch import nn
from torch.amp.grad_scaler import GradScaler

from sparsetrain.methods import SRSTE, STE
from sparsetrain.nn import Sparsity, attach, set_sparse, sparsify
from sparsetrain.ops import select24
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.schedule import Schedule

DECAY = 0.3


def network():
    return seeded(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))


def sparse_network(method=None):
    model = network()
    sparsify(model, Sparsity(weight=method or SRSTE(decay=DECAY)))
    return model


def loss_of(model, step):
    return model(normal(6, 8, seed=step)).square().mean()


def add_decay_by_hand(model, only=(0, 2)):
    """g + λ (1 − m) ⊙ W, for a model whose layers have the method without decay."""
    for i in only:
        weight = model[i].weight
        pruned = ~unpack_bits(select24(weight.detach(), "transposable"), weight.shape[1])
        weight.grad += DECAY * pruned * weight.detach()


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
}


def assert_same_weights(model, expected):
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def assert_is_sr_ste(name, step, by_hand_clip=None):
    """Train five steps with the hook and by hand; `step` makes one of the model's."""
    model, by_hand = sparse_network(), sparse_network(STE())
    optimizer, other = (OPTIMIZERS[name](m.parameters()) for m in (model, by_hand))
    attach(model, optimizer)
    for i in range(5):
        step(model, optimizer, i)
        other.zero_grad()
        loss_of(by_hand, i).backward()
        if by_hand_clip is not None:
            nn.utils.clip_grad_norm_(by_hand.parameters(), by_hand_clip)
        add_decay_by_hand(by_hand)
        other.step()
    assert_same_weights(model, by_hand)
    plain = sparse_network(STE())
    third = OPTIMIZERS[name](plain.parameters())
    for i in range(5):
        step(plain, third, i)
    assert (plain[0].weight - model[0].weight).abs().max() > 1e-3


def plain_step(model, optimizer, i):
    optimizer.zero_grad()
    loss_of(model, i).backward()
    optimizer.step()


def clipped_step(model, optimizer, i):
    optimizer.zero_grad()
    loss_of(model, i).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def closure_of(model, optimizer, i):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, i)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_sr_ste(name):
    assert_is_sr_ste(name, plain_step)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_decay_comes_after_clipping(name):
    assert_is_sr_ste(name, clipped_step, by_hand_clip=0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("by_keyword", [True, False])
def test_a_closure_is_followed_by_the_decay_and_its_loss_is_returned(name, by_keyword):
    def step(model, optimizer, i):
        closure = closure_of(model, optimizer, i)
        before = loss_of(model, i).item()
        loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
        assert loss.item() == pytest.approx(before)

    assert_is_sr_ste(name, step)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("unscale", [True, False])
def test_a_grad_scaler_scales_the_decay_neither_up_nor_down(name, unscale):
    scalers = {}

    def step(model, optimizer, i):
        scaler = scalers.setdefault(id(model), GradScaler("cpu", init_scale=1024.0))
        optimizer.zero_grad()
        scaler.scale(loss_of(model, i)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    assert_is_sr_ste(name, step)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_the_scaler_skips_changes_nothing(name):
    model = sparse_network()
    optimizer = OPTIMIZERS[name](model.parameters())
    attach(model, optimizer)
    before = copy.deepcopy(model)
    scaler = GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model, 0)).backward()
    model[0].weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    assert_same_weights(model, before)


def test_pruned_weights_shrink_by_the_decay_and_kept_ones_do_not():
    model = sparse_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    attach(model, optimizer)
    before = model[0].weight.detach().clone()
    kept = unpack_bits(model[0].current_mask(), 8)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    expected = torch.where(kept, before, before * (1 - 0.5 * DECAY))
    torch.testing.assert_close(model[0].weight.detach(), expected)


def test_the_mask_in_force_decides_what_is_pruned():
    model = network()
    sparsify(model, Sparsity(weight=SRSTE(decay=DECAY), schedule=Schedule(mask_every=3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = unpack_bits(model[0].mask, 8)
    with torch.no_grad():
        model[0].weight.copy_(normal(8, 8, seed=9))
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal((model[0].weight == before), kept)


def test_dense_phases_have_no_decay():
    model, plain = sparse_network(), sparse_network(STE())
    optimizer, other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, plain))
    attach(model, optimizer)
    for m in (model, plain):
        set_sparse(m, False)
    plain_step(model, optimizer, 0)
    plain_step(plain, other, 0)
    assert_same_weights(model, plain)


@pytest.mark.filterwarnings("error")
def test_a_removed_handle_removes_the_decay():
    model, plain = sparse_network(), sparse_network(STE())
    optimizer, other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, plain))
    attach(model, optimizer).detach()
    with pytest.warns(UserWarning, match="not attached"):
        plain_step(model, optimizer, 0)
    plain_step(plain, other, 0)
    assert_same_weights(model, plain)


def test_a_weight_without_a_gradient_is_left_alone():
    model = sparse_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer)
    before = copy.deepcopy(model)
    optimizer.step()
    assert_same_weights(model, before)


def test_a_weight_of_another_optimizer_is_left_alone_and_still_warns():
    model = sparse_network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    attach(model, optimizer)
    x = normal(3, 8)
    model[0](x)
    with pytest.warns(UserWarning, match="decay is not attached"):
        model[2](x)


def test_a_weight_that_two_layers_share_decays_once():
    model = seeded(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    model[1].weight = model[0].weight
    sparsify(model, Sparsity(weight=SRSTE(decay=DECAY)))
    optimizer = torch.optim.SGD([model[0].weight], lr=1.0)
    attach(model, optimizer)
    before = model[0].weight.detach().clone()
    model[0].weight.grad = torch.zeros_like(before)
    optimizer.step()
    pruned = ~unpack_bits(select24(before, "transposable"), 8)
    torch.testing.assert_close(model[0].weight.detach(), before - DECAY * pruned * before)
    assert model[1].phase.attached


def test_a_second_parameter_group_counts():
    model = sparse_network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.2}]
    attach(model, torch.optim.SGD(groups, lr=0.1))
    assert model[0].phase.attached
    assert model[2].phase.attached


def test_other_methods_have_no_decay():
    model = sparse_network(STE())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer)
    before = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert_same_weights(model, before)
