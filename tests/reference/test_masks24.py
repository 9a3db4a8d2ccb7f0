"""The masks: literal tiles, the published statistics, and optima found in other ways."""

from itertools import permutations

import pytest
import torch

from sparsetrain.reference.masks24 import (
    PATTERNS,
    mask_greedy24,
    mask_row24,
    mask_transposable24,
    mask_transposable_l2_24,
    pack_bits,
    select_mask24,
    unpack_bits,
)
from sparsetrain.select import RULES

INF, NAN = float("inf"), float("nan")
GREEDY_BREAKER = [[8, 10, 12, 4], [14, 16, 7, 15], [1, 9, 5, 11], [3, 2, 6, 13]]


@pytest.fixture(scope="module")
def gaussian():
    return torch.randn(1024, 512, generator=torch.Generator().manual_seed(0))


def energy(x, mask):
    return (x[mask].square().sum() / x.square().sum()).item()


def tiles_of(x):
    rows, columns = x.shape
    return x.reshape(rows // 4, 4, columns // 4, 4).transpose(1, 2).reshape(-1, 4, 4)


# The patterns


def test_the_patterns_are_the_90_masks_with_two_per_row_and_column():
    assert PATTERNS.shape == (90, 4, 4)
    assert PATTERNS.flatten(1).unique(dim=0).shape[0] == 90
    assert (PATTERNS.sum(dim=1) == 2).all()
    assert (PATTERNS.sum(dim=2) == 2).all()


def test_the_patterns_descend_as_numbers_read_from_the_first_row_and_column():
    numbers = PATTERNS.flatten(1).long() @ (1 << torch.arange(15, -1, -1))
    assert (numbers[1:] < numbers[:-1]).all()


# Literal tiles


def test_the_optimum_of_the_tile_that_breaks_greedy():
    x = torch.tensor(GREEDY_BREAKER, dtype=torch.float32)
    mask = mask_transposable24(x)
    assert mask.int().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    assert x[mask].sum() == 89


def test_greedy_keeps_seven_worth_73_of_the_tile_that_breaks_it():
    x = torch.tensor(GREEDY_BREAKER, dtype=torch.float32)
    mask = mask_greedy24(x)
    assert mask.sum() == 7
    assert x[mask].sum() == 73


def test_row_keeps_the_two_largest_magnitudes_of_every_four():
    x = torch.tensor([[1.0, -5, 3, 2, 0, 0.1, -0.2, 0]])
    assert mask_row24(x).int().tolist() == [[0, 1, 1, 0, 0, 1, 1, 0]]


@pytest.mark.parametrize("mask_of", [mask_row24, mask_transposable24, mask_greedy24])
def test_signs_do_not_change_a_mask(mask_of, gaussian):
    assert torch.equal(mask_of(gaussian[:64]), mask_of(gaussian[:64].abs()))


# Published statistics (standard errors are below a tenth of the tolerances)


def test_the_energy_kept_of_gaussian_weights(gaussian):
    assert energy(gaussian, mask_row24(gaussian)) == pytest.approx(0.868, abs=0.003)
    assert energy(gaussian, mask_greedy24(gaussian)) == pytest.approx(0.820, abs=0.003)
    assert energy(gaussian, mask_transposable_l2_24(gaussian)) == pytest.approx(0.823, abs=0.003)


def test_the_magnitude_kept_of_gaussian_weights(gaussian):
    kept = gaussian.abs()[mask_transposable24(gaussian)].sum() / gaussian.abs().sum()
    assert kept.item() == pytest.approx(0.703, abs=0.003)


def test_ranking_by_signed_value_would_keep_far_less(gaussian):
    signed = mask_greedy24(gaussian - gaussian.min())  # the same order, all of it positive
    assert energy(gaussian, signed) == pytest.approx(0.567, abs=0.004)
    for rule in RULES:
        assert energy(gaussian, select_mask24(gaussian, rule)) > 0.81


def test_greedy_leaves_seven_of_eight_in_16_percent_of_tiles_and_is_best_in_half(gaussian):
    kept = tiles_of(mask_greedy24(gaussian)).flatten(1).sum(dim=1)
    assert (kept == 7).float().mean().item() == pytest.approx(0.156, abs=0.01)
    same = tiles_of(mask_greedy24(gaussian) == mask_transposable24(gaussian)).flatten(1).all(dim=1)
    assert same.float().mean().item() == pytest.approx(0.51, abs=0.01)


@pytest.mark.parametrize(
    ("density", "lost"), [(0.5, 0.188), (0.3, 0.077), (0.2, 0.036), (0.1, 0.0095), (0.05, 0.0024)]
)
def test_the_non_zeros_a_row_mask_loses_at_a_density(density, lost):
    generator = torch.Generator().manual_seed(1)
    shape = (2000, 1000)
    x = torch.rand(shape, generator=generator).add(0.1)
    x *= torch.rand(shape, generator=generator) < density
    share = 1 - x[mask_row24(x)].count_nonzero() / x.count_nonzero()
    assert share.item() == pytest.approx(lost, rel=0.06)


# The optimum, found in other ways


def optimum_by_families(w):
    """The largest sum of a tile [T, 4, 4] by the three families of masks; no mask is listed."""
    w0, w1, w2, w3 = w.unbind(dim=1)
    c01, c23 = w0 + w1, w2 + w3

    def opposite(a, b):
        return b.sum(dim=1) + (a - b).topk(2, dim=1).values.sum(dim=1)

    candidates = [opposite(w0, w1) + opposite(w2, w3)]
    for i, j, k, m in permutations(range(4)):
        candidates.append(c01[:, i] + c01[:, m] + c23[:, j] + c23[:, k])
        top = torch.maximum(w0[:, j] + w1[:, k], w0[:, k] + w1[:, j])
        bottom = torch.maximum(w2[:, j] + w3[:, k], w2[:, k] + w3[:, j])
        candidates.append(
            top + bottom + torch.maximum(c01[:, i] + c23[:, m], c01[:, m] + c23[:, i])
        )
    return torch.stack(candidates).amax(dim=0)


def test_the_optimum_equals_that_of_the_three_families(gaussian):
    # Sums of integers this small are exact, and further apart than the scores are off.
    x = (gaussian * 16).round()
    score = tiles_of(x.abs())
    got = (score * tiles_of(mask_transposable24(x))).sum(dim=(1, 2))
    assert torch.equal(got, optimum_by_families(score))


@pytest.mark.parametrize("mask_of", [mask_transposable24, mask_transposable_l2_24])
def test_chunks_of_tiles_do_not_change_the_mask(mask_of, gaussian, monkeypatch):
    whole = mask_of(gaussian[:36, :44])
    monkeypatch.setattr("sparsetrain.reference.masks24._tiles_at_once", lambda device: 7)
    assert torch.equal(mask_of(gaussian[:36, :44]), whole)


def test_transposing_the_input_transposes_the_mask_of_greedy(gaussian):
    x = gaussian[:128, :64]
    assert torch.equal(mask_greedy24(x.T), mask_greedy24(x).T)


@pytest.mark.parametrize("rule", RULES)
def test_autocast_does_not_touch_the_choice(rule, gaussian):
    with torch.autocast("cpu", torch.bfloat16):
        mask = select_mask24(gaussian[:64], rule)
    assert torch.equal(mask, select_mask24(gaussian[:64], rule))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", RULES)
def test_a_16_bit_matrix_has_the_mask_of_its_float64_copy(rule, dtype, gaussian):
    x = gaussian[:128, :64].to(dtype)
    assert torch.equal(select_mask24(x, rule), select_mask24(x.double(), rule))


# Ties, zeros, infinities, NaN


def test_ties_of_a_row_keep_the_lower_index():
    x = torch.tensor([[1.0, -1, 1, 1, 0, 2, 0, 0, 3, 1, -1, 3]])
    assert mask_row24(x).int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1]]


@pytest.mark.parametrize("mask_of", [mask_transposable24, mask_transposable_l2_24])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 1e-45, 3e38, INF, -INF, NAN])
def test_a_tile_of_equals_takes_the_first_pattern(mask_of, value):
    mask = mask_of(torch.full((4, 4), value))
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_ties_of_greedy_go_to_the_lower_row_then_column():
    mask = mask_greedy24(torch.ones(4, 4))
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("rule", RULES)
def test_negative_zero_is_zero(rule):
    x = torch.tensor([[-0.0, 0, -0.0, 0]] * 4)
    assert torch.equal(select_mask24(x, rule), select_mask24(torch.zeros(4, 4), rule))


def test_infinities_of_both_signs_are_kept():
    x = torch.ones(4, 4)
    x[0, 3], x[1, 3], x[2, 0] = INF, -INF, INF
    for rule in RULES:
        assert select_mask24(x, rule)[[0, 1, 2], [3, 3, 0]].all()


def test_an_infinity_ranks_above_the_largest_float32():
    largest = torch.finfo(torch.float32).max
    assert mask_row24(torch.tensor([[largest, largest, INF, 0]])).tolist() == [
        [True, False, True, False]
    ]


def test_nan_is_passed_over_while_a_row_has_two_numbers():
    x = torch.tensor([[NAN, 0, 1, NAN], [NAN, NAN, 0, NAN], [NAN, NAN, NAN, NAN]])
    expected = [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]
    assert mask_row24(x).int().tolist() == expected


def test_nan_is_passed_over_by_greedy_where_numbers_are_equal():
    x = torch.zeros(4, 4)
    x[0, 0] = x[1, 1] = NAN
    mask = mask_greedy24(x)
    assert not mask[0, 0]
    assert not mask[1, 1]


@pytest.mark.parametrize("rule", ["transposable", "transposable_l2"])
def test_the_tile_rules_see_a_zero_where_there_is_a_nan(rule, gaussian):
    x = gaussian[:64, :64].clone()
    hole = gaussian[64:128, :64] > 1
    assert torch.equal(
        select_mask24(x.masked_fill(hole, NAN), rule), select_mask24(x.masked_fill(hole, 0), rule)
    )


# Shapes


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows", [0, 1, 3, 5, 6])
def test_odd_row_counts_are_those_of_a_matrix_padded_with_zeros(rule, rows, gaussian):
    x = gaussian[:rows, :12]
    padded = torch.zeros(8, 12)
    padded[:rows] = x
    mask = select_mask24(x, rule)
    assert mask.shape == (rows, 12)
    assert torch.equal(mask, select_mask24(padded, rule)[:rows])


@pytest.mark.parametrize("rule", RULES)
def test_a_matrix_without_columns_has_an_empty_mask(rule):
    assert select_mask24(torch.zeros(5, 0), rule).shape == (5, 0)


@pytest.mark.parametrize("rule", RULES)
def test_strides_do_not_matter(rule, gaussian):
    view = gaussian[1:41:2, 3:47].T[::2][:20]
    assert torch.equal(select_mask24(view[:, :20], rule), select_mask24(view[:, :20].clone(), rule))


# Bits


def test_bits_are_packed_low_first():
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, [0, 3, 8]] = True
    mask[1, [7, 11]] = True
    assert pack_bits(mask).tolist() == [[0b1001, 0b1], [0b10000000, 0b1000]]


@pytest.mark.parametrize("columns", [0, 4, 8, 12, 36])
def test_bits_unpack_to_what_was_packed(columns):
    mask = torch.rand(5, columns, generator=torch.Generator().manual_seed(2)) < 0.5
    assert torch.equal(unpack_bits(pack_bits(mask), columns), mask)
