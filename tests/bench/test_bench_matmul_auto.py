"""Random products: what is drawn, what runs, and what is said of it."""

import io
import json

import pytest
import torch
from rich.console import Console

from scripts.bench import matmul_auto
from scripts.bench.choice import Choice
from scripts.bench.matmul_auto import AutoRow, bench_auto, draw, noise
from scripts.bench.matmul_report import auto_lines, auto_table, write_auto
from sparsetrain.bench.products import PRODUCTS, Product, Shape, make_product, problem_of
from sparsetrain.bench.timing import Times

CPU = torch.device("cpu")
BF16 = torch.bfloat16
SMALL = Shape(136, 64, 128)
MICROSECONDS = {"native": 1.0, "dense": 2.0, "masked": 4.0}


def clock(run):
    run()
    return MICROSECONDS.get(getattr(run, "__name__", ""), 2.0)


def times(microseconds):
    return Times(microseconds, microseconds, microseconds)


def row(dense, again, auto, engine="native"):
    problem = problem_of("dz24 dX", SMALL, BF16)
    return AutoRow(
        "dz24 dX", SMALL, problem, engine, "because", times(dense), times(again), times(auto)
    )


def test_products_are_drawn_within_bounds_and_the_same_for_a_seed():
    drawn = draw(200, 0, PRODUCTS, BF16)
    assert len(drawn) == 200
    assert {name for name, _ in drawn} == set(PRODUCTS)
    for name, shape in drawn:
        assert 64 <= shape.tokens <= 65536
        for size in (shape.features, shape.hidden):
            assert 256 <= size <= 16384
            assert size % 64 == 0
        assert problem_of(name, shape, BF16).flops <= 4e13
    assert any(shape.tokens % 2 for _, shape in drawn)
    assert min(shape.tokens for _, shape in drawn) < 128
    assert max(shape.tokens for _, shape in drawn) > 32768
    assert drawn == draw(200, 0, PRODUCTS, BF16) != draw(200, 1, PRODUCTS, BF16)


def test_too_large_ones_are_drawn_again(monkeypatch):
    monkeypatch.setattr(matmul_auto, "MOST_BYTES", 10**8)
    for name, shape in draw(50, 0, PRODUCTS, BF16):
        p = problem_of(name, shape, BF16)
        assert 2 * (p.M * p.K + p.K * p.N + p.M * p.N) <= 10**8


@pytest.mark.parametrize(("engine", "microseconds"), [("native", 1.0), ("dense", 4.0)])
def test_what_is_chosen_is_timed_beside_dense_and_dense_again(engine, microseconds):
    product = make_product("W24 dX", SMALL, BF16, CPU)
    found = bench_auto(product, Choice(engine, None, "because"), clock, rounds=2)
    assert (found.engine, found.why) == (engine, "because")
    medians = found.dense.median, found.again.median, found.auto.median
    assert medians == (2.0, 2.0, microseconds)
    assert found.speed_up == 2.0 / microseconds


def test_a_wrong_result_of_the_chosen_engine_ends_the_run(monkeypatch):
    product = make_product("W24 dX", SMALL, BF16, CPU)
    monkeypatch.setattr(Product, "native", lambda product: product.masked() + 1)
    complaint = r"native was chosen for W24 dX 136x64x128: wrong result"
    with pytest.raises(ValueError, match=complaint):
        bench_auto(product, Choice("native", None, "because"), clock, rounds=2)


def test_the_noise_is_that_of_dense_against_itself():
    rows = [row(100.0, 100.0, 50.0) for _ in range(18)]
    assert noise(rows) == 0
    rows += [row(98.0, 100.0, 50.0), row(50.0, 100.0, 50.0)]
    assert noise(rows) == pytest.approx(0.02)


def test_ratios_within_the_noise_count_as_equal_and_that_is_said():
    rows = [row(98.0, 100.0, 50.0)] * 8 + [row(98.0, 100.0, 99.0), row(90.0, 90.0, 100.0, "dense")]
    lines = list(auto_lines(rows))
    assert lines[0].startswith("not slower than dense: 9 of 10 (90.0 %)")
    assert "from 0.980 on counts as equal; 8 from 1 on" in lines[0]
    assert "within 2.0 % of 1" in lines[1]
    assert lines[2] == "worst: 0.900× dz24 dX 136x64x128, dense: because"
    mean = (1.96**8 * (98 / 99) * 0.9) ** 0.1
    assert lines[3].startswith(f"geometric mean: {mean:.3f}×")
    assert "over the 9 not left dense" in lines[3]


def test_the_table_shows_the_lowest_first_and_the_file_all(tmp_path):
    rows = [row(100.0, 100.0, 100.0 + number) for number in range(30)]
    file = io.StringIO()
    Console(width=120, file=file).print(auto_table(rows))
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("the 10 lowest of 30")
    assert "129.0" in lines[2]
    assert len(lines) == 12
    write_auto(tmp_path / "auto.json", {"commit": "new"}, 20, rows)
    content = json.loads((tmp_path / "auto.json").read_text("utf-8"))
    assert len(content["products"]) == 30
    assert content["not_slower"] == 1
    assert content["products"][0]["problem"]["dtype"] == "bfloat16"
