"""The bytes a candidate must move, which rates are made of."""

import pytest
import torch

from scripts.bench.candidate import bytes_per_element, formula
from scripts.bench.ours import OPS, our_candidates
from scripts.bench.peers import clone

BF16, FP32 = torch.bfloat16, torch.float32

PER_ELEMENT = {
    "sparsify24 transposable": 2 + 2 * (1 + 1 / 8),
    "sparsify24 and flips": 4.25 + 1 / 8,
    "apply24": 4.25 + 1 / 8,
    "squared_relu24": 4.25,
    "squared_relu24_backward": 2 + 1 + 1 / 8 + 2,
    "mvue24": 2 + 1 + 1 / 8,
    "select24 transposable": 2 + 1 / 8,
    "mask24": 2 + 2 + 1 / 8,
    "add_mask24_": 3 * 2 + 1 / 8,
    "soft_threshold24": 4,
    "random24": 1 / 8,
}


def test_bytes_of_16_bit_matrices():
    terms = {candidate.name: candidate.terms for candidate in our_candidates(BF16, BF16, OPS)}
    for name, expected in PER_ELEMENT.items():
        assert bytes_per_element(terms[name], BF16, BF16) == expected, name
    assert bytes_per_element(clone().terms, BF16, BF16) == 4


def test_every_op_is_a_candidate():
    names = [candidate.name for candidate in our_candidates(BF16, BF16, OPS)]
    assert {name.split()[0] for name in names} == set(OPS)
    assert len(set(names)) == len(names)


def test_a_master_weight_is_read_wide_and_written_narrow():
    sparsify = our_candidates(FP32, BF16, ("sparsify24",))[0]
    assert bytes_per_element(sparsify.terms, FP32, BF16) == 4 + 2 * (1 + 1 / 8)
    assert formula(sparsify.terms, FP32, BF16) == "x + 2 values + 2 meta = 4 + 2·1 + 2·0.125 = 6.25"


@pytest.mark.parametrize("op", ["squared_relu24", "squared_relu24_backward", "mvue24"])
def test_activations_and_gradients_are_not_master_weights(op):
    assert len(our_candidates(BF16, BF16, (op,))) == 1
    assert our_candidates(FP32, BF16, (op,)) == []
