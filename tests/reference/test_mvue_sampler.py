"""The MVUE sampler: probabilities, values and variance by going through all u."""

import pytest
import torch

from sparsetrain.reference.mvue24 import sample24

STEPS = 6000


def samples(block, dtype=torch.float64):
    """Sample a block at the middles of STEPS equal parts of [0, 1), as dense [STEPS, 4]."""
    u = (torch.arange(STEPS, dtype=dtype) + 0.5) / STEPS
    x = torch.tensor(block, dtype=dtype).expand(1, STEPS, 4)
    position, value = sample24(x, u[None])
    return torch.zeros(STEPS, 4, dtype=dtype).scatter(-1, position[0], value[0])


def expected_probability_and_value(block):
    """The two cases of the paper, in plain Python."""
    a = [abs(x) for x in block]
    total, top = sum(a), max(a)
    if top <= total / 2:
        return [2 * x / total for x in a], [total / 2] * 4
    rest = total - top
    largest = a.index(top)
    if rest == 0:
        return [float(i == largest) for i in range(4)], [top] * 4
    probability = [1.0 if i == largest else a[i] / rest for i in range(4)]
    return probability, [top if i == largest else rest for i in range(4)]


@pytest.mark.parametrize(
    ("block", "probability", "kept", "variance"),
    [
        ([1, 2, 3, 4], [0.2, 0.4, 0.6, 0.8], [5, 5, 5, 5], 20),
        ([1, 1, 1, 5], [1 / 3, 1 / 3, 1 / 3, 1], [3, 3, 3, 5], 6),
        ([1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5], [2, 2, 2, 2], 4),
    ],
)
def test_published_blocks(block, probability, kept, variance):
    dense = samples(block)
    frequency = (dense != 0).double().mean(dim=0)
    assert frequency.tolist() == pytest.approx(probability, abs=1.5 / STEPS)
    for i in range(4):
        assert set(dense[:, i].tolist()) <= {0.0, float(kept[i])}
    error = dense - torch.tensor(block, dtype=torch.float64)
    assert error.square().mean(dim=0).sum().item() == pytest.approx(variance, rel=2e-3)


@pytest.mark.parametrize(
    "block",
    [
        [-3, 1, -2, 0.5],
        [0, 0, -2, 5],
        [0, 3, 3, 0],
        [-7, 0, 0, 0],
        [0, 7, 0, 0],
        [0, 0, 7, 0],
        [0, 0, 0, -7],
        [9, 1, -1, 2],
        [1, -9, 1, 2],
        [1, 1, 9, 2],
        [2, 2, 0, 4],
    ],
)
def test_every_block_is_unbiased_with_the_probabilities_of_the_paper(block):
    dense = samples(block)
    probability, kept = expected_probability_and_value(block)
    frequency = (dense != 0).double().mean(dim=0)
    assert frequency.tolist() == pytest.approx(probability, abs=1.5 / STEPS)
    bound = 1.5 / STEPS * max(kept)
    assert dense.mean(dim=0).tolist() == pytest.approx(block, abs=bound)


def test_the_variance_relative_to_a_gaussian_is_0_474():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 400_000, 4, generator=generator)
    position, value = sample24(x, torch.rand(1, 400_000, generator=generator))
    dense = torch.zeros_like(x).scatter(-1, position, value)
    relative = (dense - x).square().sum() / x.square().sum()
    assert relative.item() == pytest.approx(0.474, abs=0.003)


def test_zeros_keep_the_first_two():
    position, value = sample24(torch.zeros(1, 3, 4), torch.tensor([[0.0, 0.5, 1 - 2.0**-24]]))
    assert position.tolist() == [[[0, 1]] * 3]
    assert value.tolist() == [[[0, 0]] * 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_never_keeps_other_than_two_nor_makes_a_zero_a_value(dtype):
    generator = torch.Generator().manual_seed(1)
    groups = 100_000
    exponent = torch.randint(-30, 31, (1, groups, 4), generator=generator)
    x = torch.rand(1, groups, 4, generator=generator, dtype=dtype) * 2.0**exponent
    x *= torch.rand(1, groups, 4, generator=generator) < 0.7
    x[:, ::3] = (x[:, ::3] != 0).to(dtype)  # equal magnitudes, whose sums meet the points exactly
    edges = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-24], dtype=dtype)
    for u in edges:
        position, value = sample24(x, u.expand(1, groups))
        assert (position[..., 0] < position[..., 1]).all()
        assert (position >= 0).all()
        assert (position < 4).all()
        assert torch.equal(value != 0, x.gather(-1, position) != 0)


@pytest.mark.parametrize("u", [0.0, 0.3, 0.5, 1 - 2.0**-24])
def test_one_or_two_non_zeros_are_always_kept_as_they_are(u):
    blocks = [[3.0, -3, 0, 0], [0, 3, 0, -3], [0, 0, 3, 3], [7, 0, 0, -1], [0, 1, -7, 0]]
    blocks += [[-5, 0, 0, 0], [0, 5, 0, 0], [0, 0, -5, 0], [0, 0, 0, 5]]
    x = torch.tensor([blocks])
    position, value = sample24(x, torch.full((1, len(blocks)), u))
    assert torch.equal(torch.zeros_like(x).scatter(-1, position, value), x)


@pytest.mark.parametrize(
    "block", [[1.0, float("inf"), 0, 2], [float("nan"), 1, 2, 3], [0, 0, 0, float("-inf")]]
)
def test_a_group_that_is_not_finite_comes_out_not_finite(block):
    u = torch.linspace(0, 0.99, 50)[None]
    position, value = sample24(torch.tensor(block).expand(1, 50, 4), u)
    assert not value.isfinite().any()
    assert (position == torch.tensor([0, 1])).all()


def test_a_sum_that_overflows_is_not_hidden():
    _, value = sample24(torch.full((1, 1, 4), 3e38), torch.tensor([[0.5]]))
    assert value.isinf().all()
