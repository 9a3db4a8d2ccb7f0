"""scripts/bench/matmul.py with dtype=fp8: on the CPU with a clock that is made up."""

import pytest
import torch

from scripts.bench import matmul
from scripts.bench.matmul_fp8 import WithPeers, bench_fp8, with_peers
from scripts.bench.matmul_measure import DENSE, DENSE_TRANSPOSED, NATIVE
from scripts.bench.matmul_peers import FP8_PEERS
from scripts.bench.matmul_report import summary_lines
from sparsetrain.bench.products import Shape, make_product
from sparsetrain.bench.products8 import PRODUCTS8, Quantized

SMALL = Shape(tokens=144, features=64, hidden=128)


def small(name):
    return make_product(name, SMALL, torch.bfloat16, torch.device("cpu"))


def clock(run):
    run()
    return 1000.0 if getattr(run, "__name__", "") == "native" else 3000.0


@pytest.fixture
def peers(monkeypatch):
    """PyTorch's product by row too, which it has on GPUs alone."""
    monkeypatch.setattr(WithPeers, "scaled_mm", lambda narrow, by_row: by_row)


@pytest.mark.parametrize("name", PRODUCTS8)
def test_every_product_in_fp8_is_the_one_in_16_bits(name):
    product = small(name)
    narrow = with_peers(product)
    got, plain = narrow.native(), product.masked()
    assert got.shape == plain.shape
    assert (got.float() - plain.float()).norm() < 0.06 * plain.float().norm()
    dense, wide = narrow.scaled_mm(by_row=False), product.dense()
    assert dense.shape == wide.shape
    assert got.shape == tuple(narrow.oracle.masked().shape)


@pytest.mark.parametrize("name", PRODUCTS8)
def test_ours_is_held_to_float64_of_the_quantized_operands(name, monkeypatch, peers):
    row = bench_fp8(small(name), clock, rounds=2, sms=132)
    assert set(row.times) == {NATIVE, DENSE, DENSE_TRANSPOSED, *FP8_PEERS}
    assert row.speed_up(NATIVE) == row.speed_up_over_fp8() == 3
    assert row.errors[NATIVE] <= 1.01 * row.errors[DENSE] < 3e-3
    native = Quantized.native
    monkeypatch.setattr(Quantized, "native", lambda narrow: native(narrow) * 1.01)
    row = bench_fp8(small(name), clock, rounds=2, sms=132)
    assert row.skipped[NATIVE].startswith("wrong result")


def test_the_summary_compares_with_the_faster_dense_fp8(peers):
    rows = [bench_fp8(small(name), clock, rounds=2, sms=132) for name in PRODUCTS8]
    assert "over the faster dense fp8: 3.000× (worst 3.00×)" in "\n".join(summary_lines(rows))


def test_a_peer_that_refuses_is_listed_with_the_first_line_of_its_reason(monkeypatch):
    def refuse(narrow, by_row):
        if by_row:
            raise RuntimeError("not by row\nhere")

    monkeypatch.setattr(WithPeers, "scaled_mm", refuse)
    row = bench_fp8(small("W24 dX"), clock, rounds=2, sms=132)
    assert row.skipped == {"fp8-row": "RuntimeError: not by row"}
    assert "fp8-tensor" in row.times


def test_words_that_fp8_does_not_take_are_refused():
    assert matmul.parse(["dtype=fp8"]).products == PRODUCTS8
    assert matmul.parse(["dtype=fp8"]).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"^products='act24-dw'"):
        matmul.parse(["dtype=fp8", "products=act24-dw"])
    with pytest.raises(ValueError, match=r"^random= does not go with dtype=fp8"):
        matmul.parse(["dtype=fp8", "random=3"])
    assert not matmul.parse([]).fp8
