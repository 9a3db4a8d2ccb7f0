"""SparseGPT against the optimal brain surgeon, column by column with explicit inverses."""

import pytest
import torch
from pruning_checks import best_of_rows, correlated, inputs_of, normal

from sparsetrain.patterns import NM, Block, Unstructured
from sparsetrain.pruning import SparseGPT
from sparsetrain.pruning.refit import output_error
from sparsetrain.pruning.sparsegpt import inverse_factor
from sparsetrain.select import EXACT, ROW


def hessian_of(x, damp):
    gram = x.double().T @ x.double()
    return gram + damp * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)


def saliencies(weight, hessian, column):
    """w² / [H⁻¹]ⱼⱼ of the columns from `column` on, each with the H of itself and those behind."""
    rows = []
    for j in range(column, min(column + 4, len(hessian))):
        rows.append(weight[:, j].square() / torch.linalg.inv(hessian[j:, j:])[0, 0])
    return torch.stack(rows, 1)


def surgeon(weight, x, damp, choose):
    """Remove columns from the left, each with the update of the columns behind it that is optimal
    for it alone. choose(weight, j): the columns of the mask that start at j, or None."""
    weight, hessian = weight.double().clone(), hessian_of(x, damp)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for j in range(weight.shape[1]):
        chosen = choose(weight, j)
        if chosen is not None:
            mask[:, j : j + chosen.shape[1]] = chosen
        inverse = torch.linalg.inv(hessian[j:, j:])
        lost = torch.where(mask[:, j], 0.0, weight[:, j])
        weight[:, j:] -= torch.outer(lost / inverse[0, 0], inverse[0])
    return torch.where(mask, weight, 0.0), mask


@pytest.mark.parametrize("columns", [4, 12, 128])
def test_two_of_four_is_the_surgeons_however_many_columns_wait(columns):
    weight, x = normal(8, 24), correlated(100, 24)
    hessian = hessian_of(x, 0.01)

    def choose(left, j):
        return None if j % 4 else best_of_rows(saliencies(left, hessian, j))

    expected, mask = surgeon(weight, x, 0.01, choose)
    got, its_mask = SparseGPT(columns=columns).prune(weight.double(), inputs_of(x), NM(2, 4), ROW)
    assert torch.equal(its_mask, mask)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_unstructured_shares_a_threshold_in_each_batch_of_columns():
    weight, x = normal(8, 24), correlated(100, 24)
    hessian = hessian_of(x, 0.05)

    def choose(left, j):
        if j % 12:
            return None
        score = torch.cat([saliencies(left, hessian, c) for c in range(j, j + 12, 4)], 1)
        return score >= score.flatten().sort(descending=True).values[round(0.3 * 8 * 12) - 1]

    expected, mask = surgeon(weight, x, 0.05, choose)
    got, its_mask = SparseGPT(damp=0.05, columns=12).prune(
        weight.double(), inputs_of(x), Unstructured(0.3), ROW
    )
    assert torch.equal(its_mask, mask)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_blocks_are_chosen_once_and_what_they_lose_is_made_up_for():
    weight, x = normal(8, 24), correlated(100, 24)
    hessian = hessian_of(x, 0.01)
    score = torch.cat([saliencies(weight.double(), hessian, c) for c in range(0, 24, 4)], 1)
    whole = Block(4, 4, 0.5).mask(score.sqrt())
    expected, _ = surgeon(weight, x, 0.01, lambda left, j: whole if j == 0 else None)
    got, mask = SparseGPT().prune(weight.double(), inputs_of(x), Block(4, 4, 0.5), EXACT)
    assert torch.equal(mask, whole)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("density", [0.1, 0.37, 0.9])
def test_an_unstructured_weight_keeps_no_more_than_its_density(density):
    pattern = Unstructured(density)
    pruned, mask = SparseGPT(columns=8).prune(
        normal(10, 27), inputs_of(correlated(90, 27)), pattern, ROW
    )
    assert mask.sum() == round(density * 270)
    assert pattern.holds(pruned)


def test_the_update_lowers_the_error_of_the_same_mask():
    weight, inputs = normal(16, 32), inputs_of(correlated(100, 32))
    pruned, mask = SparseGPT().prune(weight, inputs, NM(2, 4), ROW)
    updated = output_error(weight, pruned, inputs.gram_II)
    assert updated < output_error(weight, weight * mask, inputs.gram_II)


def test_inputs_that_are_always_zero_are_pruned_first_and_change_nothing():
    weight, x = normal(8, 16), correlated(60, 16)
    x[:, [1, 2, 8, 9, 10]] = 0.0
    pruned, mask = SparseGPT().prune(weight, inputs_of(x), NM(2, 4), ROW)
    assert pruned.isfinite().all()
    assert not mask[:, [1, 2]].any()
    kept = mask[:, 8:11]
    assert kept.sum(1).eq(1).all(), "one of three dead inputs fills the group"
    assert torch.equal(pruned[:, 8:11][kept], weight[:, 8:11][kept])
    dead = inputs_of(torch.zeros(5, 16))
    assert torch.equal(
        SparseGPT().prune(weight, dead, NM(2, 4), ROW)[0].count_nonzero(), torch.tensor(64)
    )


def test_a_small_unstructured_weight_keeps_one_value_at_least():
    inputs = inputs_of(correlated(20, 8))
    _, mask = SparseGPT(columns=4).prune(normal(4, 8), inputs, Unstructured(0.01), ROW)
    assert mask.sum() == 1


def test_too_little_damping_is_named():
    x = correlated(tokens=4, features=16)
    with pytest.raises(ValueError, match="damp=1e-18: XᵀX of the calibration inputs is singular"):
        inverse_factor(inputs_of(x).gram_II, 1e-18)
