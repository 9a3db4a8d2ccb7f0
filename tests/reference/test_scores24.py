"""The integer scores of the transposable rules: against exact arithmetic, and what they promise."""

import random
import struct
from fractions import Fraction
from itertools import combinations, product

import pytest
import torch

from sparsetrain.reference.masks24 import (
    PATTERNS,
    mask_transposable24,
    mask_transposable_l2_24,
    score_tiles,
    score_tiles_l2,
    tiles24,
    untile24,
)

INF, NAN = float("inf"), float("nan")
TINY, LARGEST = 2.0**-149, torch.finfo(torch.float32).max
MASKS_AND_SCORES = [(mask_transposable24, score_tiles), (mask_transposable_l2_24, score_tiles_l2)]
BOTH = pytest.mark.parametrize(("mask_of", "score_of"), MASKS_AND_SCORES, ids=["l1", "l2"])
TILES = 20_000


def tiles_of(kind):
    """Tiles [TILES, 4, 4] of a kind."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TILES, 4, 4, generator=generator)
    if kind == "heavy-tailed":
        return x / torch.randn(TILES, 4, 4, generator=generator).abs() ** 3
    if kind == "quantized":
        return (x * 1.5).round()
    if kind == "post-ReLU":
        return x.relu().square()
    assert kind == "gaussian"
    return x


KINDS = pytest.mark.parametrize("kind", ["gaussian", "heavy-tailed", "quantized", "post-ReLU"])


# The definition, in exact arithmetic


def float32(x):
    """Round a Fraction to float32. Twice, but a float64 has bits enough for products and quotients
    of float32."""
    return Fraction(struct.unpack("f", struct.pack("f", float(x)))[0])


def exact_scores(tile, squares):
    """The scores of a tile of 16 floats."""
    magnitudes = [Fraction(0) if x != x else Fraction(min(abs(x), 2.0**100)) for x in tile]
    scale = float32(Fraction(8191) / max(*magnitudes, Fraction(1, 2**100)))
    if not squares:
        return [round(m * scale) for m in magnitudes]
    us = [float32(m * scale) for m in magnitudes]
    return [round(u * float32(u * float32(Fraction(1, 8191)))) for u in us]


def literal_tiles():
    rng = random.Random(0)
    tiles = [
        [0.0] * 16,
        [-0.0, 0.0] * 8,
        [NAN] * 16,
        [INF, -INF, LARGEST, 2.0**100, 2.0**99, 2.0**86, 1.01 * 2.0**86, 2.0**93] * 2,
        [NAN, INF, 1.0, -TINY, 0.0, -0.0, 2.0**-126, 5e-40] * 2,
        [TINY, 3 * TINY, 2.0**-130, -(2.0**-126)] * 4,
        [2.0**-100, 2.0**-101, 2.0**-113, 2.0**-115] * 4,
        [2.0**-104, 2.0**-110, 2.0**-113, 2.0**-114] * 4,
        [8191.0, 0.5, 1.5, 2.5, 8190.5, 8189.5, 100.49, 3.0] * 2,  # halves go to the even one
        [LARGEST, -LARGEST, 2.0**101, 2.0**100] * 4,
    ]
    exponents = [rng.choice([0, 4, 30, 140]) for _ in range(200)]
    for e in exponents:
        values = [rng.gauss(0, 1) * 2.0 ** rng.uniform(-e, min(e, 120)) for _ in range(16)]
        tiles.append(torch.tensor(values).tolist())  # as float32
    return tiles


def tiles_between_two_scores(squares):
    """Tiles whose values fall on half a score, as nearly as float32 has them."""
    rng = random.Random(1)
    tiles = []
    for _ in range(150):
        largest = torch.tensor(rng.uniform(1, 2))
        halves = torch.tensor([rng.randrange(8191) + 0.5 for _ in range(15)]).double()
        steps = (halves * 8191).sqrt() if squares else halves
        values = (steps * largest / 8191).float()
        other = torch.full_like(values, rng.choice([0.0, 9.0]))
        nudged = torch.where(torch.arange(15) % 2 == 0, values, values.nextafter(other))
        tiles.append([*nudged.tolist(), largest.item()])
    return tiles


@pytest.mark.parametrize(("score_of", "squares"), [(score_tiles, False), (score_tiles_l2, True)])
def test_the_scores_are_those_of_exact_arithmetic(score_of, squares):
    tiles = literal_tiles() + tiles_between_two_scores(squares)
    got = score_of(torch.tensor(tiles).reshape(-1, 4, 4)).flatten(1).long().tolist()
    for tile, scores in zip(tiles, got, strict=True):
        assert scores == exact_scores(tile, squares), tile


def test_scores_of_a_tile_by_hand():
    # Scale 8191/4; of 1/16 that is 127.98, of its square 2.0.
    x = torch.tensor([[4.0, -4, 2, 1], [0, -0.0, NAN, 1 / 16], [0, 0, 0, 0], [1e-4, 0, 0, 0]])
    assert score_tiles(x[None])[0].tolist() == [
        [8191, 8191, 4096, 2048],
        [0, 0, 0, 128],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert score_tiles_l2(x[None])[0, :2].tolist() == [[8191, 8191, 2048, 512], [0, 0, 0, 2]]


@pytest.mark.parametrize("score_of", [score_tiles, score_tiles_l2])
def test_the_largest_value_scores_8191_whatever_it_is(score_of):
    largest = torch.rand(TILES, generator=torch.Generator().manual_seed(1)) + 1
    largest *= 2.0 ** torch.linspace(-99, 99, TILES).round()
    score = score_of(torch.cat([largest[:, None], torch.zeros(TILES, 15)], 1).reshape(-1, 4, 4))
    assert (score[:, 0, 0] == 8191).all()
    assert score.sum() == 8191 * TILES


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_matrix_scores_as_its_float32_copy(mask_of, score_of, dtype):
    x = tiles_of("gaussian").to(dtype)
    assert torch.equal(score_of(x), score_of(x.float()))
    assert torch.equal(mask_of(untile24(x, 80, 4000)), mask_of(untile24(x.float(), 80, 4000)))


def test_a_float64_beyond_float32_is_the_largest_or_nothing():
    x = torch.zeros(1, 4, 4, dtype=torch.float64)
    x[0, 0, :3] = torch.tensor([1e300, -1e200, 1e-300])
    assert score_tiles(x)[0, 0].tolist() == [8191, 8191, 0, 0]


# The choice


def numbers_of(mask_T44):
    """Each tile's mask as a 16-bit number whose highest bit is row 0, column 0."""
    return (mask_T44.flatten(1).long() << torch.arange(15, -1, -1)).sum(dim=1)


def totals_of(score_T44):
    return score_T44.flatten(1).long() @ PATTERNS.flatten(1).long().T


def masks_of_tiles(mask_of, tiles):
    return tiles24(mask_of(untile24(tiles, 4, 4 * tiles.shape[0])))


@BOTH
@KINDS
def test_the_mask_rides_in_the_sum(mask_of, score_of, kind):
    x = tiles_of(kind)
    words = (score_of(x).flatten(1).long() << 16) | (1 << torch.arange(15, -1, -1))
    best = (words @ PATTERNS.flatten(1).long().T).amax(dim=1)
    assert best.max() < 2**32
    mask = masks_of_tiles(mask_of, x)
    assert torch.equal(best & 0xFFFF, numbers_of(mask))
    assert torch.equal(best >> 16, (score_of(x).long() * mask).sum(dim=(1, 2)))


def brute_force(scores):
    """The first best mask of 16 scores by all 2-subsets of each row, in plain Python."""
    best, best_mask = -1, []
    for rows in product(combinations(range(4), 2), repeat=4):
        if all(sum(c in row for row in rows) == 2 for c in range(4)):
            total = sum(scores[4 * r + c] for r in range(4) for c in rows[r])
            if total > best:
                best, best_mask = total, [[c in rows[r] for c in range(4)] for r in range(4)]
    return best_mask


@pytest.mark.parametrize("levels", [2, 4, 10**6])
@pytest.mark.parametrize(
    ("mask_of", "squares"), [(mask_transposable24, False), (mask_transposable_l2_24, True)]
)
def test_the_first_best_pattern_wins_as_in_a_brute_force(mask_of, squares, levels):
    rng = random.Random(levels)
    tiles = [[float(rng.randrange(levels)) for _ in range(16)] for _ in range(20)]
    got = masks_of_tiles(mask_of, torch.tensor(tiles).reshape(-1, 4, 4)).tolist()
    assert got == [brute_force(exact_scores(tile, squares)) for tile in tiles]


@BOTH
@KINDS
def test_every_tile_keeps_99_9_percent_of_the_best_of_the_90(mask_of, score_of, kind):
    x = tiles_of(kind)
    worth = x.double().abs() if score_of is score_tiles else x.double().square()
    best = (worth.flatten(1) @ PATTERNS.flatten(1).double().T).amax(dim=1)
    mask = masks_of_tiles(mask_of, x)
    assert (mask.sum(dim=1) == 2).all()
    assert (mask.sum(dim=2) == 2).all()
    share = ((worth * mask).sum(dim=(1, 2)) / best)[best > 0]
    assert share.min() >= 0.999
    assert share.mean() >= 0.99999


@BOTH
def test_the_scores_lose_what_they_cannot_see(mask_of, score_of):
    # 13.51 and 14.49 steps are both 14: so 99.9 % is not far from the least.
    step = 1 / 8191 if score_of is score_tiles else (1 / 8191) ** 0.5
    low, high = (step * (n if score_of is score_tiles else n**0.5) for n in (13.51, 14.49))
    x = torch.full((1, 4, 4), high)
    x[0, :2, :2] = x[0, 2:, 2:] = low  # the first pattern
    x[0, 0, 2] = 1.0
    score = score_of(x)
    assert score.flatten().unique().tolist() == [14, 8191]
    worth = x.double() if score_of is score_tiles else x.double().square()
    best = (worth.flatten(1) @ PATTERNS.flatten(1).double().T).amax()
    kept = (worth * masks_of_tiles(mask_of, x)).sum()
    assert 0.999 <= kept / best < 0.9999


# Transposing


@BOTH
@KINDS
def test_transposing_the_input_transposes_the_mask_where_one_pattern_is_best(
    mask_of, score_of, kind
):
    x = tiles_of(kind)
    mask, of_transpose = masks_of_tiles(mask_of, x), masks_of_tiles(mask_of, x.transpose(1, 2)).mT
    totals = totals_of(score_of(x))
    is_best = totals == totals.amax(dim=1, keepdim=True)
    one = is_best.sum(dim=1) == 1
    assert one.any()
    assert torch.equal(mask[one], of_transpose[one])
    # Among several best, the first read by rows, and the first read by columns.
    by_rows, by_columns = (numbers_of(patterns) for patterns in (PATTERNS, PATTERNS.mT))
    assert torch.equal(numbers_of(mask), (is_best * by_rows).amax(dim=1))
    assert torch.equal(numbers_of(of_transpose.mT), (is_best * by_columns).amax(dim=1))
    if kind == "quantized":
        assert not torch.equal(mask, of_transpose)


def test_no_rule_could_transpose_every_tie():
    # A symmetric tile, so its mask would have to be symmetric; none of its best patterns is.
    x = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]])
    totals = totals_of(score_tiles(x[None]))[0]
    best = PATTERNS[totals == totals.amax()]
    assert not any(torch.equal(pattern, pattern.T) for pattern in best)
    assert not torch.equal(mask_transposable24(x), mask_transposable24(x.T).T)
