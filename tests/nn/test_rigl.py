"""RigL: its masks against brute force, and what is zero beside them."""

import math
from typing import Any

import pytest
import torch
from nn_checks import normal
from torch import nn

import sparsetrain as st
from sparsetrain.reference.masks24 import unpack_bits

FREE = st.Unstructured(0.25)
BLOCK, BALANCED = st.Block(4, 8, 0.25, balanced=False), st.Block(4, 8, 0.25)
STEPS, EVERY, DROP = 12, 3, 0.5


def run(pattern, optimizer, schedule=None, steps_made=STEPS):
    """The layer, its optimizer; weight, gradient and mask before each step, mask and state after.

    Hooks that are registered before `attach` run before its own.
    """
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(32, 16))
    schedule = schedule or st.Schedule(mask_every=EVERY)
    sparsity = st.Sparsity(weight=st.RigL(drop=DROP), pattern=pattern, schedule=schedule)
    st.sparsify(model, sparsity)
    layer, steps = model[0], []
    update = optimizer(model.parameters())

    def mask():
        return unpack_bits(layer.current_mask(), 32)

    update.register_step_pre_hook(
        lambda *_: steps.append([layer.weight.detach().clone(), layer.weight.grad.clone(), mask()])
    )
    st.attach(model, update, total_steps=STEPS)
    update.register_step_post_hook(lambda *_: steps[-1].append(mask()))
    for number in range(steps_made):
        x = normal(8, 32, seed=number)
        (model(x) - x[:, :16]).square().mean().backward()
        update.step()
        update.zero_grad()
    return layer, update, steps


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, amsgrad=True)


def units(x, pattern):
    rows, columns = (1, 1) if isinstance(pattern, st.Unstructured) else (4, 8)
    return x.reshape(16 // rows, rows, 32 // columns, columns).double().sum((1, 3))


def grown(weight, grad, mask, pattern, done):
    """The next mask in units, by sorting."""
    kept = [i for i, on in enumerate(units(mask, pattern).flatten().tolist()) if on]
    size = units(weight.abs(), pattern).flatten().tolist()
    slope = units(grad.abs(), pattern).flatten().tolist()
    count = round(0.25 * len(size))
    share = DROP / 2 * (1 + math.cos(math.pi * done))
    stay = sorted(kept, key=lambda i: size[i], reverse=True)[
        : round((1 - share) * 0.25 * len(size))
    ]
    others = sorted(set(range(len(size))) - set(stay), key=lambda i: slope[i], reverse=True)
    return sorted([*stay, *others[: count - len(stay)]])


@pytest.mark.parametrize("pattern", [FREE, BLOCK], ids=str)
def test_masks_drop_by_magnitude_and_grow_by_gradient(pattern):
    _, _, steps = run(pattern, adamw)
    changed = 0
    for step, (weight, grad, mask, after) in enumerate(steps):
        if (step + 1) % EVERY:
            assert torch.equal(mask, after)
            continue
        expected = grown(weight, grad, mask, pattern, (step + 1) / STEPS)
        assert units(after, pattern).flatten().nonzero().flatten().tolist() == expected
        changed += not torch.equal(mask, after)
    assert changed >= 2


def test_balanced_blocks_stay_balanced():
    for *_, after in run(BALANCED, adamw)[2]:
        kept = units(after, BALANCED) > 0
        assert kept.sum(1).tolist() == [1, 1, 1, 1]
        assert kept.sum(0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "optimizer", [adamw, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)], ids=["adamw", "sgd"]
)
def test_what_is_pruned_or_just_grew_is_zero_and_has_no_optimizer_state(optimizer):
    layer, update, steps = run(FREE, optimizer, steps_made=EVERY)
    *_, before, after = steps[EVERY - 1]
    assert (after & ~before).any(), "something grew"
    stays = before & after
    state = [t for t in update.state[layer.weight].values() if t.shape == layer.weight.shape]
    assert state
    for tensor in (layer.weight, *state):
        assert not tensor[~stays].any()
        assert tensor[stays].any()
    for weight, _, mask, _ in steps:
        assert not weight[~mask].any()


def test_the_dense_warm_up_is_dense_and_the_first_mask_is_of_magnitudes():
    schedule = st.Schedule(dense_warmup=0.5, mask_every=4)
    _, _, steps = run(FREE, adamw, schedule)
    weight, _, mask, _ = steps[STEPS // 2]
    assert steps[STEPS // 2 - 1][0].all()
    trained = weight.abs()
    assert torch.equal(weight != 0, mask)
    assert trained[mask].min() > 0


def test_a_ramp_drops_more_than_it_grows():
    _, _, steps = run(FREE, adamw, st.Schedule(mask_every=EVERY, ramp=0.5))
    left = [round(float(after.float().mean()), 2) for *_, after in steps]
    assert left == sorted(left, reverse=True)
    assert (left[0], left[-1]) == (1.0, 0.25)


@pytest.mark.parametrize("drop", [0.0, 1.0, "0.3"])
def test_a_share_that_drops_nothing_or_all_is_refused(drop):
    with pytest.raises(ValueError, match=f"drop={drop!r}: give the share that RigL replaces"):
        st.RigL(drop=drop)
