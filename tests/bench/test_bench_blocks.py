"""The table of blocks: products are right, differences are of the same seeds and words."""

import pytest
import torch

from scripts.bench.blocks import WORDS, Layer, difference, longest, measure_layer, table


def row(variant, seed, top1, epochs=60, choose=True, further=()):
    words = [*WORDS[variant]["words"].split(), *further]
    key = "top1_val" if choose else "top1"
    numbers = {"top1": None, "top1_val": None, key: top1, "density": 0.2}
    return {"variant": variant, "seed": seed, "epochs": epochs, "choose": choose} | {
        "words": words, "date": f"2026-11-{10 + seed}", **numbers
    }  # fmt: skip


def test_the_bsr_product_of_a_layer_is_the_dense_one_of_its_balanced_blocks():
    layer = Layer("small", 128, 128, 8, 1, (16, 64))
    points = dict(measure_layer(layer, 0.26, torch.device("cpu")))
    assert [points[size].refused for size in (16, 64)] == ["", ""]
    assert points[16].density == pytest.approx(0.25)
    assert points[64].density == pytest.approx(0.5), "one block of two in each row"


def test_the_longest_final_runs_with_the_same_words_are_compared_seed_by_seed():
    rows = [row("dense", 0, 60.0), row("block80", 0, 50.0)]
    rows += [row("dense", 0, 90.0, 200, False), row("dense", 1, 92.0, 200, False)]
    rows += [row("block80", 0, 89.0, 200, False), row("block80", 1, 90.0, 200, False)]
    rows += [row("dense", 2, 10.0, 200, False, ("seed=2",)), row("block70", 0, 90.5, 200, False)]
    kind, found = longest(rows)
    assert kind == "200 epochs, test images"
    assert difference(found, "block80") == "-1.50 ± 0.50 (2 seeds)"
    assert difference(found, "block70") == "+0.50 (one seed)"
    assert difference(found, "block90") == "–"


def test_the_table_has_a_line_for_each_density():
    point = {"layer": "ViT-B", "asked": 0.1, "block": 64, "refused": "", "speed": 3.4}
    lines = table([point], []).splitlines()
    assert lines[0] == "no rows of blocks yet"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["70%", "80%", "90%"]
    assert "3.40×" in lines[-1]
