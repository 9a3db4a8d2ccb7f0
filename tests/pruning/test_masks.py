"""Masks of each method, against oracles that share no code with them."""

from typing import Any

import pytest
import torch
from pruning_checks import best_of_rows, correlated, inputs_of, normal
from torch import nn
from torch.ao.pruning.sparsifier.weight_norm_sparsifier import WeightNormSparsifier

from sparsetrain.patterns import NM, Block, Unstructured
from sparsetrain.pruning import Magnitude, SparseGPT, Wanda, WeightNorm
from sparsetrain.pruning.choose import choose_by_row
from sparsetrain.select import EXACT, ROW

TWO_OF_FOUR = NM(2, 4)


def test_wanda_keeps_two_of_four_by_weight_times_norm():
    weight, x = normal(8, 16), correlated(50, 16)
    norms = torch.tensor([sum(v * v for v in x[:, j].tolist()) ** 0.5 for j in range(16)])
    expected = best_of_rows(weight.abs() * norms)
    assert not torch.equal(expected, best_of_rows(weight.abs())), "the inputs decide something"
    for inputs in (inputs_of(x, "norms"), inputs_of(x)):
        pruned, mask = Wanda().prune(weight, inputs, TWO_OF_FOUR, ROW)
        assert torch.equal(mask, expected)
        assert torch.equal(pruned, torch.where(expected, weight, 0.0))


def test_wanda_compares_unstructured_weights_within_their_row():
    weight, x = normal(6, 20) * torch.logspace(-2, 2, 6)[:, None], correlated(50, 20)
    _, mask = Wanda().prune(weight, inputs_of(x), Unstructured(0.3), ROW)
    assert mask.sum(1).tolist() == [6] * 6
    for row, score in enumerate(weight.double().abs() * x.double().norm(dim=0)):
        assert score[mask[row]].min() > score[~mask[row]].max()


def test_rows_that_cannot_share_evenly_give_the_rest_to_the_highest():
    score = torch.tensor([[9.0, 8.0, 7.0, 1.0], [5.0, 4.0, 6.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    kept = choose_by_row(score, 5 / 12).int().tolist()
    assert kept == [[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]] or sum(map(sum, kept)) == 5
    assert kept[0] == [1, 1, 0, 0]
    assert kept[1] == [1, 0, 1, 0]


@pytest.mark.parametrize("method", [Magnitude(), Wanda(), SparseGPT()], ids=str)
def test_exact_masks_are_two_of_four_in_both_orientations(method):
    weight, x = normal(16, 32), correlated(50, 32)
    _, mask = method.prune(weight, inputs_of(x), TWO_OF_FOUR, EXACT)
    assert mask.unflatten(1, (-1, 4)).sum(2).eq(2).all()
    assert mask.unflatten(0, (-1, 4)).sum(1).eq(2).all()


def sparsified_by_torch(weight, **config):
    model: Any = nn.Sequential(nn.Linear(*reversed(weight.shape), bias=False))
    model[0].weight = nn.Parameter(weight.clone())
    sparsifier = WeightNormSparsifier(**config)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    return model[0].parametrizations.weight[0].mask.bool()


def test_weight_norm_has_the_masks_of_torch_ao_for_two_of_four():
    weight = normal(32, 64)
    theirs = sparsified_by_torch(
        weight, sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    pruned, mask = WeightNorm().prune(weight, None, TWO_OF_FOUR, ROW)
    assert torch.equal(mask, theirs)
    assert torch.equal(pruned, weight * theirs)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (1, 4)], ids=str)
def test_weight_norm_has_the_masks_of_torch_ao_for_blocks(shape, norm):
    weight = normal(32, 64)
    theirs = sparsified_by_torch(weight, sparsity_level=0.8, sparse_block_shape=shape, norm=norm)
    pattern = Block(*shape, density=0.2, balanced=False)
    assert torch.equal(WeightNorm(norm).prune(weight, None, pattern, EXACT)[1], theirs)


def test_magnitude_keeps_the_largest_blocks_and_the_largest_values():
    weight = torch.eye(4).repeat_interleave(4, 0).repeat_interleave(4, 1) + 0.1
    _, mask = Magnitude().prune(weight, None, Block(4, 4, 0.25), EXACT)
    assert torch.equal(mask, weight > 0.5)
    _, mask = Magnitude().prune(-weight, None, Unstructured(0.25), EXACT)
    assert torch.equal(mask, weight > 0.5)


def test_norms_and_the_gram_matrix_are_those_of_all_tokens():
    x = correlated(60, 12)
    gram = inputs_of(x)
    torch.testing.assert_close(gram.gram_II, x.double().T @ x.double())
    torch.testing.assert_close(gram.norms_I, x.double().norm(dim=0))
    torch.testing.assert_close(inputs_of(x, "norms").norms_I, gram.norms_I)
    assert gram.tokens == 60
    gram.add(x[0])
    assert gram.tokens == 61, "an input of one dimension is a token"


def test_options_out_of_range_are_named():
    with pytest.raises(ValueError, match="norm=3: give 1 or 2"):
        WeightNorm(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="damp=0: give a positive share"):
        SparseGPT(damp=0)
    with pytest.raises(ValueError, match="damp='1': give a positive share"):
        SparseGPT(damp="1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="columns=6: give a multiple of 4"):
        SparseGPT(columns=6)
