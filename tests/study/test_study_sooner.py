"""When a sparse run has the accuracy of a dense one, against numbers read off by hand."""

import pytest
from plan import variants
from sooner import NONE, draw, groups, table


def row(variant, curve, seconds, seed=0, resumed=False):
    return {
        "data": "tiny100_wide", "recipe": "tiny100_vit_b", "recipe_digest": "c0ffee",
        "variant": variant, "seed": seed, "epochs": 100, "choose": True, "resumed": resumed,
        "curve": curve, "curve_seconds": seconds, "words": [],
    }  # fmt: skip


ROWS = [
    row("dense", [10.0, 47.5, 49.0, 50.0], [100, 200, 300, 400]),
    row("w24", [12.0, 46.0, 49.5, 50.2], [80, 160, 240, 320]),
    row("w24_mvue", [12.0, 46.0, 46.5, 48.0], [80, 160, 240, 320]),
]


def test_times_are_those_of_the_first_validation_that_has_so_much():
    lines = [" ".join(line.split()) for line in table(ROWS, variants()).splitlines()]
    assert lines == [
        "w24 seed 0 50.00 % dense 400 s, it 320 s 1.25x",
        "w24 seed 0 49.00 % dense 300 s, it 240 s 1.25x",
        "w24 seed 0 47.00 % dense 200 s, it 240 s 0.83x",
        "w24_mvue seed 0 50.00 % dense 400 s, it never",
        "w24_mvue seed 0 49.00 % dense 300 s, it never",
        "w24_mvue seed 0 47.00 % dense 200 s, it 320 s 0.62x",
    ]


def test_each_dense_run_is_compared_with():
    lines = table([*ROWS[:2], row("relu2", [51.0], [300])], variants()).splitlines()
    assert [line.split()[5] for line in lines] == ["dense"] * 3 + ["relu2"] * 3
    assert "51.00 %" in lines[3]
    assert lines[3].endswith("it never")


def test_runs_of_another_seed_or_recipe_and_resumed_ones_are_not_compared():
    others = [row("w24", [50.0], [1], seed=1), row("w24", [50.0], [1], resumed=True)]
    others.append({**row("w24", [50.0], [1]), "words": ["mix.prob=0"]})
    without = {**row("w24", [50.0], [1])}
    del without["curve_seconds"]
    found = table([ROWS[0], *others, without], variants())
    assert found == NONE


def test_a_picture_has_what_is_compared(tmp_path):
    alone = {**row("dense", [50.0], [1]), "data": "cifar10"}
    assert groups([*ROWS, alone], variants()) == [ROWS]
    draw(tmp_path / "time.png", [*ROWS, alone], variants())
    assert (tmp_path / "time.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=NONE):
        draw(tmp_path / "none.png", [alone], variants())
