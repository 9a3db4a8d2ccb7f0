"""mvue24: which number goes where, and unbiased over seeds. The sampler has tests of its own."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import mvue24, unpack24
from sparsetrain.reference.mvue24 import sample24
from sparsetrain.reference.philox import random_words, uniform24


def test_group_g_of_column_c_draws_its_own_word_of_stream_0():
    x = gaussian(10, 8)
    u = uniform24(random_words(torch.tensor([11]), 3, 8, stream=0)).T
    padded = torch.cat([x, torch.zeros(2, 8)])
    dense = unpack24(*mvue24(x, torch.tensor([11])))
    for column in range(8):
        for group in range(3):
            block = padded[4 * group : 4 * group + 4, column].reshape(1, 1, 4)
            position, value = sample24(block, u[column, group].reshape(1, 1))
            expected = torch.zeros_like(block).scatter(-1, position, value)
            assert torch.equal(dense[column, 4 * group : 4 * group + 4], expected[0, 0])


@pytest.mark.slow
def test_the_mean_over_seeds_is_the_matrix_within_five_standard_errors():
    x = gaussian(6, 8)
    seeds = 2000
    draws = torch.stack([unpack24(*mvue24(x, torch.tensor([s]))) for s in range(seeds)])
    deviation = (draws.mean(dim=0)[:, :6] - x.T).abs()
    assert (deviation <= 5 * draws.std(dim=0)[:, :6] / seeds**0.5 + 1e-5).all()
    assert draws[:, :, 6:].count_nonzero() == 0


def test_a_seed_repeats_and_another_differs():
    x = gaussian(64, 16)
    first, again, other = (mvue24(x, torch.tensor([s])) for s in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_values_are_the_float32_sample_rounded(dtype):
    x = gaussian(32, 16, dtype)
    values_t, meta_t = mvue24(x, torch.tensor([1]))
    wide_values_t, wide_meta_t = mvue24(x.float(), torch.tensor([1]))
    assert torch.equal(meta_t, wide_meta_t)
    assert torch.equal(values_t, wide_values_t.to(dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_does_not_vanish(bad):
    x = gaussian(8, 4)
    x[5, 2] = bad
    for seed in range(20):
        dense = unpack24(*mvue24(x, torch.tensor([seed])))
        assert (~dense[2, 4:].isfinite()).sum() == 2
        assert dense[:2].isfinite().all()
        assert dense[2, :4].isfinite().all()


@pytest.mark.parametrize("seed", [torch.tensor([1.0]), torch.tensor([1, 2])])
def test_a_seed_that_is_not_one_integer_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed: .* should be one element.*torch\.int64"):
        mvue24(gaussian(4, 4), seed)


def test_a_seed_elsewhere_is_refused():
    with pytest.raises(ValueError, match="seed: on meta, but x is on cpu"):
        mvue24(gaussian(4, 4), torch.zeros(1, dtype=torch.int64, device="meta"))
