"""Differences to the dense twin and their verdicts, against numbers worked out by hand."""

import math

import pytest
from plan import data_sets, variants
from verdict import Difference, judge, paired, summary


def row(variant, seed, top1, sparse=None, choose=False, data="cifar10", digest="c0ffee", words=()):
    value = None if choose else top1
    return {
        "data": data,
        "recipe": "cifar10_vit",
        "recipe_digest": digest,
        "variant": variant,
        "seed": seed,
        "words": [*words],
        "epochs": 200,
        "choose": choose,
        "top1": value,
        "top1_val": top1 if choose else None,
        "top1_sparse": sparse,
    }


def test_the_difference_is_that_of_the_seeds_that_both_have():
    # Differences -0.1, -0.2, -0.3: mean -0.2, deviation 0.1, and 4.303 * 0.1 / √3 = 0.2484.
    sparse = {0: 92.9, 1: 92.8, 2: 92.7, 7: 50.0}
    difference = paired(sparse, {0: 93.0, 1: 93.0, 2: 93.0, 9: 10.0})
    assert difference is not None
    assert difference.pairs == 3
    assert difference.delta == pytest.approx(-0.2)
    assert difference.half == pytest.approx(0.2484, abs=1e-4)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 1.0}, {0: 2.0}) == Difference(1, -1.0, math.inf)


def test_pairing_takes_out_what_the_seeds_have_in_common():
    # Both vary by points from seed to seed, their difference does not.
    difference = paired({0: 90.0, 1: 92.0, 2: 94.0}, {0: 90.1, 1: 92.1, 2: 94.1})
    assert difference is not None
    assert difference.half == pytest.approx(0.0, abs=1e-9)
    assert difference.delta == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("delta", "half", "verdict"),
    [
        (-0.1, 0.15, "held"),  # loses at most 0.25
        (0.4, 0.1, "held"),
        (-0.2, 0.25, "undecided"),  # between a gain of 0.05 and a loss of 0.45
        (-0.5, 0.3, "undecided"),
        (-0.7, 0.3, "missed"),  # loses at least 0.4
        (-5.0, math.inf, "undecided"),  # one seed
    ],
)
def test_a_verdict_is_given_where_the_whole_interval_is_on_one_side(delta, half, verdict):
    assert judge(Difference(2, delta, half), goal=0.3) == verdict


def test_the_summary_shows_each_variant_against_its_twin():
    rows = [row("dense", seed, 93.0) for seed in range(3)]
    # Differences of w24: +0.1, 0.0, -0.1: mean 0, interval 0.2484: held at 0.3.
    rows += [row("w24", seed, 93.1 - 0.1 * seed, 92.0) for seed in range(3)]
    rows += [row("relu2", 0, 94.0), row("all24", 0, 93.0), row("a24", 5, 93.5)]
    lines = summary(rows).splitlines()
    assert lines[0] == "cifar10, 200 epochs, test images, recipe cifar10_vit c0ffee"
    by_name = {line.split()[0]: " ".join(line.split()) for line in lines[2:]}
    assert by_name == {
        "dense": "dense 3 93.00 –",
        "relu2": "relu2 1 94.00 –",
        "w24": "w24 3 93.00 92.00 +0.00 ± 0.25 to dense 0.3 held",
        "a24": "a24 1 93.50 – no seed in common with relu2",
        "all24": "all24 1 93.00 – -1.00 one seed to relu2 0.5 undecided",
    }


def test_runs_that_choose_are_never_mixed_with_those_that_read_the_test_images():
    rows = [row("dense", 0, 90.0), row("w24", 0, 80.0, choose=True)]
    tables = summary(rows).split("\n\n")
    assert [table.splitlines()[0] for table in tables] == [
        "cifar10, 200 epochs, test images, recipe cifar10_vit c0ffee",
        "cifar10, 200 epochs, held-out training images, recipe cifar10_vit c0ffee",
    ]
    assert "no seed in common with dense" in tables[1]
    assert summary([]) == "no rows"


def test_runs_of_a_recipe_are_never_mixed_with_those_before_it_changed():
    rows = [row("dense", 0, 90.0, digest="aaaaaa"), row("w24", 0, 80.0, digest="bbbbbb")]
    tables = summary(rows).split("\n\n")
    assert [table.splitlines()[0].split()[-1] for table in tables] == ["aaaaaa", "bbbbbb"]
    assert "no seed in common with dense" in tables[1]


def test_runs_with_words_that_change_the_recipe_are_compared_among_themselves():
    batch = ("data.batch_size=128",)
    sparse = ("sparsity=weights24", "engine=auto", "compile=default")
    rows = [row("dense", 0, 90.0, words=("sparsity=dense", *batch)), row("dense", 0, 80.0)]
    rows += [row("w24", 0, 89.5, words=(*sparse, *batch)), row("w24", 0, 79.0, words=sparse)]
    tables = summary(rows).split("\n\n")
    assert [table.splitlines()[0].split("cifar10_vit ")[1] for table in tables] == [
        "c0ffee",
        "c0ffee data.batch_size=128",
    ]
    assert ["-1.00" in tables[0], "-0.50" in tables[1]] == [True, True]


def test_every_variant_names_a_twin_that_there_is_dense_or_of_fp8_the_same_in_16_bits():
    known = variants()
    for name, variant in known.items():
        assert variant.goal is None or variant.twin is not None, name
        if variant.twin is not None:
            twin = known[variant.twin]
            own = [
                word.replace("fp8_24", "weights24").replace("fp8_", "") for word in variant.words
            ]
            assert twin.twin is None or sorted(own) == sorted(twin.words), name
    assert {"cifar10", "tiny100"} <= set(data_sets())
