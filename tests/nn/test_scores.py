"""Movement and learned scores: what `attach` hands them, and the masks that follow."""

import copy
from typing import Any

import pytest
import torch
from nn_checks import normal
from torch import nn

import sparsetrain as st
from sparsetrain.reference.masks24 import unpack_bits

BLOCK, FREE = st.Block(4, 8, 0.25, balanced=False), st.Unstructured(0.25)
STEPS = 6


def brute_force(score, pattern):
    """The mask of the highest scores of [16, 32], by sorting pairs."""
    rows, columns = (4, 8) if pattern == BLOCK else (1, 1)
    units = {}
    for r in range(0, 16, rows):
        for c in range(0, 32, columns):
            units[r, c] = float(score[r : r + rows, c : c + columns].double().sum())
    best = sorted(units, key=lambda place: units[place], reverse=True)[: len(units) // 4]
    mask = torch.zeros(16, 32, dtype=torch.bool)
    for r, c in best:
        mask[r : r + rows, c : c + columns] = True
    return mask


def run(method, pattern, schedule=None, steps=STEPS, optimizer=torch.optim.SGD):
    """The layer, and weight, dense gradient and mask of each step."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(32, 16))
    schedule = schedule or st.Schedule()
    st.sparsify(model, st.Sparsity(weight=method, pattern=pattern, schedule=schedule))
    layer, seen = model[0], []
    update = optimizer(model.parameters(), lr=0.1)

    def keep(*_):
        mask = unpack_bits(layer.current_mask(), 32)
        seen.append((layer.weight.detach().clone(), layer.weight.grad.clone(), mask))

    update.register_step_pre_hook(keep)
    st.attach(model, update, total_steps=2 * steps)
    for number in range(steps):
        x = normal(8, 32, seed=number)
        (model(x) - x[:, :16]).square().mean().backward()
        update.step()
        update.zero_grad()
    return layer, seen


@pytest.mark.parametrize("pattern", [BLOCK, FREE], ids=str)
def test_movement_keeps_what_the_gradients_moved_away_from_zero(pattern):
    layer, seen = run(st.Movement(), pattern)
    score = torch.zeros(16, 32)
    for step, (weight, grad, mask) in enumerate(seen):
        expected = brute_force(score if step else weight.abs(), pattern)
        assert torch.equal(mask, expected)
        score -= weight * grad
    assert torch.equal(unpack_bits(layer.current_mask(), 32), brute_force(score, pattern))


@pytest.mark.parametrize("pattern", [BLOCK, FREE], ids=str)
def test_learned_scores_start_as_magnitudes_and_descend_their_gradients(pattern):
    layer, seen = run(st.LearnedScores(lr=0.3), pattern)
    shape = (4, 4, 4, 8) if pattern == BLOCK else (16, 1, 32, 1)
    magnitude = seen[0][0].abs().reshape(shape).sum((1, 3))
    score = magnitude / magnitude.mean()
    for weight, grad, _ in seen:
        slope = (weight * grad).reshape(shape).sum((1, 3))
        score = score - 0.3 * slope / slope.square().mean().sqrt()
    torch.testing.assert_close(layer.scores, score)
    whole = layer.scores.repeat_interleave(shape[1], 0).repeat_interleave(shape[3], 1)
    assert torch.equal(unpack_bits(layer.current_mask(), 32), brute_force(whole, pattern))
    assert any(not torch.equal(seen[0][2], mask) for *_, mask in seen), "no mask changed"


@pytest.mark.parametrize("method", [st.Movement(), st.LearnedScores()], ids=str)
def test_pruned_values_get_no_gradient_and_keep_their_value(method):
    schedule = st.Schedule(freeze_at=0.0)
    layer, seen = run(method, FREE, schedule)
    first, _, mask = seen[0]
    assert torch.equal(layer.weight[~mask], first[~mask])
    assert not torch.equal(layer.weight[mask], first[mask])


def test_scores_gather_in_a_dense_warm_up_and_its_gradients_stay_whole():
    layer, seen = run(st.Movement(), FREE, st.Schedule(dense_warmup=0.5))
    assert layer.phase.sparse, "its first sparse step is next"
    score = -sum(weight * grad for weight, grad, _ in seen)
    assert torch.equal(unpack_bits(layer.current_mask(), 32), brute_force(score, FREE))
    assert not (layer.weight == seen[0][0]).any()


def test_the_factor_of_a_loss_scaler_does_not_reach_the_scores_and_a_skipped_step_is_not_seen():
    layer, _ = run(st.Movement(), FREE, steps=1)
    model: Any = nn.Sequential(layer)
    update: Any = torch.optim.SGD(model.parameters(), lr=0.0, fused=True)
    st.attach(model, update)
    layer.scores = None
    layer.weight.grad = normal(16, 32)
    update.step()
    expected, layer.scores = layer.scores, None
    layer.weight.grad = 8 * normal(16, 32)
    update.grad_scale, update.found_inf = torch.tensor([8.0]), torch.zeros(1)
    update.step()
    torch.testing.assert_close(layer.scores, expected)
    layer.weight.grad = torch.full((16, 32), torch.inf)
    update.found_inf = torch.ones(1)
    update.step()
    torch.testing.assert_close(layer.scores, expected)


def test_a_loaded_state_dict_drops_the_scores_of_other_weights():
    layer, _ = run(st.Movement(), BLOCK, steps=2)
    other: Any = nn.Sequential(nn.Linear(32, 16))[0]
    layer.load_state_dict(other.state_dict())
    assert layer.scores is None
    assert torch.equal(unpack_bits(layer.current_mask(), 32), BLOCK.mask(other.weight.abs()))


def test_two_layers_that_share_a_weight_keep_the_same_scores():
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(16, 16, bias=False), nn.GELU(), nn.Linear(16, 16, bias=False)
    )
    model[2].weight = model[0].weight
    st.sparsify(model, st.Sparsity(weight=st.Movement(), pattern=FREE))
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    st.attach(model, update, check=False)
    for number in range(3):
        model(normal(8, 16, seed=number)).square().mean().backward()
        update.step()
        update.zero_grad()
    assert torch.equal(model[0].scores, model[2].scores)
    assert torch.equal(model[0].mask, model[2].mask)


def test_saved_scores_of_another_shape_or_method_are_refused():
    layer, _ = run(st.Movement(), BLOCK)
    model: Any = nn.Sequential(layer)
    state = st.sparse_state(model)
    assert state["0"]["scores"].shape == (4, 4)
    wrong = copy.deepcopy(state)
    wrong["0"]["scores"] = torch.zeros(16, 32)
    with pytest.raises(ValueError, match=r"0: its saved scores are float32 \[16, 32\], not"):
        st.load_sparse_state(model, wrong)
    other = nn.Sequential(nn.Linear(32, 16))
    st.sparsify(other, st.Sparsity(pattern=BLOCK))
    with pytest.raises(ValueError, match=r"0: its saved state has .*'scores'"):
        st.load_sparse_state(other, state)


@pytest.mark.parametrize("pattern", [st.NM(2, 4), st.VNM(), st.Combined()], ids=str)
@pytest.mark.parametrize("method", [st.Movement(), st.LearnedScores(), st.RigL()], ids=str)
def test_a_pattern_without_units_to_score_is_refused_with_the_fix(method, pattern):
    with pytest.raises(ValueError, match=rf"pattern={pattern}: .* single values; give pattern=Bl"):
        st.Sparsity(weight=method, pattern=pattern)


def test_a_step_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"lr=0\.0: the step of learned scores must be > 0"):
        st.LearnedScores(lr=0.0)
    with pytest.raises(ValueError, match=r"lr='0\.1': the step of learned scores must be > 0"):
        st.LearnedScores(lr="0.1")  # pyright: ignore[reportArgumentType]


def test_a_forward_that_trains_without_attach_warns():
    model: Any = nn.Sequential(nn.Linear(32, 16))
    st.sparsify(model, st.Sparsity(weight=st.Movement(), pattern=FREE))
    with pytest.warns(UserWarning, match=r"Movement's score is not attached .* keep the largest"):
        model(normal(2, 32))
