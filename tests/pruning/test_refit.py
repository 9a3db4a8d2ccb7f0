"""Least squares on the kept weights."""

import pytest
import torch
from pruning_checks import correlated, inputs_of, normal

from sparsetrain.patterns import NM, Block, Unstructured
from sparsetrain.pruning import Magnitude, SparseGPT
from sparsetrain.pruning.refit import output_error, refit_weights, row_errors
from sparsetrain.select import EXACT, ROW

PATTERNS = [NM(2, 4), Block(4, 4, 0.5), Unstructured(0.3)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_it_is_lstsq_in_float64_row_by_row(pattern):
    weight, x = normal(8, 24).double(), correlated(100, 24).double()
    gram = inputs_of(x).gram_II
    pruned, mask = Magnitude().prune(weight, None, pattern, EXACT)
    got = refit_weights(weight, pruned, mask, gram)
    assert torch.equal(got != 0, mask)
    for row in range(8):
        kept = mask[row]
        solution = torch.linalg.lstsq(x[:, kept], (x @ weight[row])[:, None]).solution
        torch.testing.assert_close(got[row, kept], solution.squeeze(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", [Magnitude(), SparseGPT()], ids=str)
def test_it_raises_the_error_of_no_row(method, dtype):
    x = correlated(20, 24)  # fewer tokens than features: XᵀX is singular
    x[:, 3] = 0.0
    inputs, weight = inputs_of(x), normal(16, 24).to(dtype)
    pruned, mask = method.prune(weight, inputs, NM(2, 4), ROW)
    again = refit_weights(weight, pruned, mask, inputs.gram_II)
    assert again.dtype == dtype
    assert not again[~mask].any()
    before, after = (row_errors(weight, w, inputs.gram_II) for w in (pruned, again))
    assert (after <= before).all()
    assert (after < before).any()


def test_the_error_is_of_the_output():
    weight, x = normal(8, 24), correlated(50, 24)
    pruned = weight * (normal(8, 24, seed=5) > 0)
    out, its = x.double() @ weight.double().T, x.double() @ pruned.double().T
    expected = float((out - its).norm() / out.norm())
    assert output_error(weight, pruned, inputs_of(x).gram_II) == pytest.approx(expected)
    assert output_error(weight, pruned, torch.zeros(24, 24).double()) == 0.0


def test_nothing_kept_or_nothing_seen_stays_as_it_is():
    weight = normal(4, 8)
    nothing = torch.zeros(4, 8, dtype=torch.bool)
    gram = inputs_of(correlated(9, 8)).gram_II
    assert not refit_weights(weight, weight * nothing, nothing, gram).any()
    whole = ~nothing
    assert torch.equal(refit_weights(weight, weight, whole, torch.zeros_like(gram)), weight)
