"""random24: every pattern equally often, from the words of its own stream."""

import re
from pathlib import Path

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import mask24, random24
from sparsetrain.patterns import NM
from sparsetrain.reference.masks24 import PATTERNS, tiles24, unpack_bits
from sparsetrain.reference.philox import DROPOUT_STREAM, MVUE_STREAM, random_words

CSRC = Path(__file__).resolve().parents[2] / "csrc"


def tiles_of(mask, columns):
    return tiles24(unpack_bits(mask, columns))


def test_a_tile_takes_the_pattern_of_its_own_word_of_stream_1():
    seed = torch.tensor([11])
    words = random_words(seed, 3, 6, stream=1).flatten().tolist()
    tiles = tiles_of(random24(12, 24, seed), 24)
    for tile, word in zip(tiles, words, strict=True):
        assert torch.equal(tile, PATTERNS[word * 90 // 2**32])


def test_the_kernel_has_the_same_patterns_in_the_same_order():
    source = (CSRC / "random24.cu").read_text("utf-8")
    table = re.search(r"patterns\[90\] = \{([^}]*)\}", source)
    assert table
    weight = 1 << torch.arange(16)  # bit 4 r + c is row r, column c
    numbers = (PATTERNS.flatten(1) * weight).sum(dim=1).tolist()
    assert [int(word, 16) for word in table[1].replace(",", " ").split()] == numbers


@pytest.mark.parametrize(("op", "stream"), [("mvue24", MVUE_STREAM), ("random24", DROPOUT_STREAM)])
def test_the_kernel_draws_from_the_same_stream(op, stream):
    source = (CSRC / f"{op}.cu").read_text("utf-8")
    counters = re.findall(r"make_uint4\([^;]*, 0, (\w+)\),\s*key\)", source)
    assert counters == [str(stream)]


def test_every_pattern_is_as_likely_as_the_others():
    tiles = tiles_of(random24(1200, 1200, torch.tensor([3])), 1200)
    matches = tiles.flatten(1).double() @ PATTERNS.flatten(1).double().T == 8
    count = matches.sum(dim=0)
    assert count.sum() == 90_000
    chi_square = ((count - 1000) ** 2 / 1000).sum()
    assert chi_square < 89 + 5 * (2 * 89) ** 0.5


def test_dropout_with_it_keeps_the_expectation():
    x = gaussian(8, 8)
    draws = torch.stack(
        [mask24(x, random24(8, 8, torch.tensor([s])), kept=2.0) for s in range(250)]
    )
    assert NM().holds(draws)
    assert NM().holds(draws.mT)
    # Each value is 0 or twice itself, both with probability 1/2.
    assert ((draws.mean(dim=0) - x).abs() <= 5 * x.abs() / 250**0.5).all()


def test_a_seed_repeats_and_another_differs():
    first, again, other = (random24(64, 64, torch.tensor([s])) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (5, 0), (5, 12), (130, 20)])
def test_odd_sizes_are_cut_from_whole_tiles(rows, columns):
    seed = torch.tensor([1])
    mask = random24(rows, columns, seed)
    assert mask.shape == (rows, (columns + 7) // 8)
    assert torch.equal(mask, random24((rows + 3) // 4 * 4, columns, seed)[:rows])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((-1, 8), "rows: -1 is negative"),
        ((8, 6), "columns: 6 is not a multiple of 4"),
        ((8, -4), "columns: -4 is not a multiple of 4, or is negative"),
    ],
)
def test_a_size_without_whole_groups_is_refused(arguments, complaint):
    for call in (random24, torch.ops.sparsetrain.random24):
        with pytest.raises(ValueError, match=complaint):
            call(*arguments, seed=torch.tensor([1]))


@pytest.mark.parametrize("seed", [torch.tensor([1.0]), torch.tensor([1, 2])])
def test_a_seed_that_is_not_one_integer_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed: .* should be one element.*torch\.int64"):
        random24(8, 8, seed)
