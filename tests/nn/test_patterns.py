"""Blocks and unstructured weights train, resume, export and load back."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from nn_checks import normal
from torch import nn

import sparsetrain as st
from sparsetrain.patterns import Fixed

SCORED = [st.Block(8, 8, 0.25), st.Block(8, 8, 0.3, balanced=False), st.Unstructured(0.1)]
RAMPED = [*SCORED, st.Combined(st.Block(8, 8, 0.5))]
PATTERNS = [*RAMPED, st.VNM(16, 2, 8)]
patterns = pytest.mark.parametrize("pattern", PATTERNS, ids=str)
ramped = pytest.mark.parametrize("pattern", RAMPED, ids=str)
METHODS = [st.STE(), st.SRSTE(decay=0.01), st.Movement(), st.LearnedScores(), st.RigL(drop=0.5)]
trained = pytest.mark.parametrize(
    ("pattern", "method"),
    [(p, m) for p in PATTERNS for m in METHODS if not m.why_not(p)],
    ids=lambda value: value if isinstance(value, str) else str(value).partition("(")[0],
)
SCHEDULE = st.Schedule(ramp=0.5, mask_every=2)
STEPS = 12


def make(pattern, weight=None, schedule=SCHEDULE) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
    if isinstance(pattern, Fixed):
        schedule = replace(schedule, ramp=0.0)
    sparsity = st.Sparsity(weight=weight or st.STE(), pattern=pattern, schedule=schedule)
    report = st.sparsify(model, sparsity)
    return model, report


def train(model, optimizer, steps, first=0):
    losses = []
    for number in range(first, first + steps):
        x = normal(16, 32, seed=number)
        loss = (model(x) - x[:, :16]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def attached(model, total=STEPS):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return optimizer, st.attach(model, optimizer, total_steps=total)


@ramped
def test_density_falls_by_the_cubic_and_the_forward_multiplies_by_what_is_left(pattern):
    model, report = make(pattern)
    assert report.converted[0].engine == f"masked: {pattern} has no product of its own"
    optimizer, _ = attached(model)
    for step in range(STEPS):
        # Masks are chosen before every second step; the ramp is 6 steps long.
        left = max(0.0, 1 - (step - step % 2) / 6)
        density = pattern.density + (1 - pattern.density) * left**3
        most = pattern.nm.density if isinstance(pattern, st.Combined) else 1.0
        assert st.density(model) == pytest.approx(min(density, most), abs=0.13)
        x = normal(4, 32, seed=50)
        used = [layer.used_weight() for layer in (model[0], model[2])]
        hidden = nn.functional.gelu(nn.functional.linear(x, used[0], model[0].bias))
        expected = nn.functional.linear(hidden, used[1], model[2].bias)
        torch.testing.assert_close(model(x), expected)
        train(model, optimizer, 1, step)
    assert all(pattern.holds(layer.used_weight()) for layer in (model[0], model[2]))


@patterns
def test_pruned_values_get_the_gradient_of_kept_ones(pattern):
    model, _ = make(pattern)
    train(model, torch.optim.SGD(model.parameters(), lr=0.0), 1)
    x = normal(4, 32)
    weight = model[0].used_weight().requires_grad_()
    hidden = nn.functional.gelu(nn.functional.linear(x, weight, model[0].bias))
    nn.functional.linear(hidden, model[2].used_weight(), model[2].bias).sum().backward()
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(model[0].weight.grad, weight.grad)


@trained
def test_a_resumed_run_has_the_losses_of_the_whole_one(pattern, method):
    model, _ = make(pattern, method)
    optimizer, handle = attached(model)
    train(model, optimizer, 5)
    saved = copy.deepcopy([m.state_dict() for m in (model, optimizer, handle)])
    whole = train(model, optimizer, STEPS - 5, first=5)
    other, _ = make(pattern, method)
    its, its_handle = attached(other)
    for part, state in zip((other, its, its_handle), saved, strict=True):
        part.load_state_dict(state)
    assert train(other, its, STEPS - 5, first=5) == whole


@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support is in beta")
@trained
def test_what_is_exported_loads_back_and_computes_the_same(pattern, method):
    model, _ = make(pattern, method)
    train(model, attached(model)[0], STEPS)
    model.eval()
    x = normal(4, 32)
    expected = model(x)
    dense: Any = st.densify(copy.deepcopy(model), apply_masks=True)
    assert torch.equal(dense(x), expected)
    weight = dense[0].weight.detach()
    assert pattern.holds(weight)
    blocks = pattern.block if isinstance(pattern, st.Combined) else pattern
    if isinstance(blocks, st.Block):
        packed = weight.to_sparse_bsr((blocks.rows, blocks.columns))
        kept = weight.count_nonzero() / (pattern.density / blocks.density)
        assert packed.values().shape[0] == kept / (blocks.rows * blocks.columns)
    else:
        packed = weight.to_sparse_coo()
        assert packed._nnz() == round(pattern.density * weight.numel())
    torch.testing.assert_close(packed @ x.T, weight @ x.T)


def test_masks_of_another_pattern_are_refused_by_the_name_of_the_layer():
    model, _ = make(PATTERNS[0])
    attached(model)
    state = st.sparse_state(model)
    state["0"]["mask"][0, 0] ^= 1
    with pytest.raises(ValueError, match=r"^0: its saved mask cuts blocks apart, as pattern=8×8"):
        st.load_sparse_state(model, state)


def test_a_layer_that_is_not_whole_blocks_stays_dense_with_that_reason():
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 12))
    report = st.sparsify(model, st.Sparsity(pattern=PATTERNS[0]))
    [row] = report.skipped
    fix = "give rows that divide 12 and columns that divide 64"
    assert row.reason == f"12×64 is not whole blocks of 8×8: {fix}"


@pytest.mark.parametrize(
    "more",
    [{"weight": st.SSTE()}, {"weight": st.STE(mvue=True)}, {"activation": st.Activation24()}],
    ids=str,
)
def test_what_needs_two_of_four_is_refused(more):
    with pytest.raises(ValueError, match=r"pattern=unstructured 0.1 with .* are of 2:4 weights"):
        st.Sparsity(pattern=st.Unstructured(0.1), **more)


def test_an_option_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match=r"ramp=0\.5: the density of 2:4 cannot fall"):
        st.Sparsity(schedule=SCHEDULE)
    with pytest.raises(ValueError, match="selection=row with pattern=unstructured"):
        st.Sparsity(pattern=st.Unstructured(0.1), selection=st.Selection("row"))


def test_an_engine_that_multiplies_two_of_four_alone_is_refused():
    model = nn.Sequential(nn.Linear(32, 64))
    with pytest.raises(ValueError, match=r"engine='native': 0 has the pattern unstructured 0\.1"):
        st.sparsify(model, st.Sparsity(pattern=st.Unstructured(0.1)), engine="native")


def test_parts_may_have_patterns_of_their_own():
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
    parts = {"first": st.Part(("0",)), "second": st.Part(("2",), pattern=PATTERNS[0])}
    st.sparsify(model, st.Sparsity(parts=parts))
    optimizer, _ = attached(model)
    train(model, optimizer, 3)
    assert [stats.density for stats in st.inspect(model)] == [0.5, 0.25]
