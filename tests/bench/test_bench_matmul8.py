"""scripts/bench/matmul.py with dtype=fp8 and int8: on the CPU with a clock that is made up."""

import pytest
import torch

from scripts.bench import matmul
from scripts.bench.matmul8 import WithPeers, bench8, with_peers
from scripts.bench.matmul_measure import DENSE, DENSE_TRANSPOSED, NATIVE
from scripts.bench.matmul_peers import PEERS8
from scripts.bench.matmul_report import summary_lines
from sparsetrain.bench.products import Shape, make_product
from sparsetrain.bench.products8 import E4M3, PRODUCTS8, Quantized

SMALL = Shape(tokens=144, features=64, hidden=128)

dtypes = pytest.mark.parametrize("dtype", PEERS8, ids=str)


def small(name):
    return make_product(name, SMALL, torch.bfloat16, torch.device("cpu"))


def clock(run):
    run()
    return 1000.0 if getattr(run, "__name__", "") == "native" else 3000.0


@pytest.fixture
def peers(monkeypatch):
    """PyTorch's product by row too, which it has on GPUs alone."""
    monkeypatch.setattr(WithPeers, "dense8", lambda narrow, peer: peer)


@dtypes
@pytest.mark.parametrize("name", PRODUCTS8)
def test_every_product_in_8_bits_is_the_one_in_16_bits(name, dtype):
    product = small(name)
    narrow = with_peers(product, dtype)
    got, plain = narrow.native(), product.masked()
    assert got.shape == plain.shape
    assert (got.float() - plain.float()).norm() < 0.06 * plain.float().norm()
    dense, wide = narrow.dense8(PEERS8[dtype][-1]), product.dense()
    assert dense.shape == wide.shape
    assert got.shape == tuple(narrow.oracle.masked().shape)


@dtypes
@pytest.mark.parametrize("name", PRODUCTS8)
def test_ours_is_held_to_float64_of_the_quantized_operands(name, dtype, monkeypatch, peers):
    row = bench8(small(name), dtype, (), clock, rounds=2, sms=132)
    assert row.problem.dtype == dtype
    assert set(row.times) == {NATIVE, DENSE, DENSE_TRANSPOSED, *PEERS8[dtype]}
    assert row.speed_up(NATIVE) == row.speed_up_over_8_bits() == 3
    assert row.errors[NATIVE] <= 1.01 * row.errors[DENSE] < 3e-3
    native = Quantized.native
    monkeypatch.setattr(Quantized, "native", lambda narrow: native(narrow) * 1.01)
    row = bench8(small(name), dtype, (), clock, rounds=2, sms=132)
    assert row.skipped[NATIVE].startswith("wrong result")


@dtypes
def test_the_summary_compares_with_the_fastest_dense_product_of_the_dtype(dtype, peers):
    rows = [bench8(small(name), dtype, (), clock, rounds=2, sms=132) for name in PRODUCTS8]
    words = "over the fastest dense product in 8 bits: 3.000× (worst 3.00×)"
    assert words in "\n".join(summary_lines(rows))


def test_a_peer_that_refuses_is_listed_with_the_first_line_of_its_reason(monkeypatch):
    def refuse(narrow, peer):
        if peer == "fp8-row":
            raise RuntimeError("not by row\nhere")

    monkeypatch.setattr(WithPeers, "dense8", refuse)
    row = bench8(small("W24 dX"), E4M3, (), clock, rounds=2, sms=132)
    assert row.skipped == {"fp8-row": "RuntimeError: not by row"}
    assert "fp8-tensor" in row.times


def test_words_that_8_bits_do_not_take_are_refused():
    for word, dtype in (("fp8", E4M3), ("int8", torch.int8)):
        options = matmul.parse([f"dtype={word}"])
        assert (options.products, options.narrow) == (PRODUCTS8, dtype)
        assert options.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"^products='act24-dw'"):
        matmul.parse(["dtype=fp8", "products=act24-dw"])
    with pytest.raises(ValueError, match=r"^random= does not go with dtype=fp8"):
        matmul.parse(["dtype=fp8", "random=3"])
    with pytest.raises(ValueError, match=r"^dtype='e4m3': choose one of bfloat16, float16, fp8, i"):
        matmul.parse(["dtype=e4m3"])
    assert matmul.parse([]).narrow is None


def test_peers_are_those_of_the_dtype():
    assert matmul.parse(["dtype=fp8"]).peers == ("cusparselt", "cusparselt-best", "torchao-cutlass")
    assert matmul.parse(["dtype=int8"]).peers == ("cusparselt", "cusparselt-best")
    assert matmul.parse(["dtype=fp8", "peers=false"]).peers == ()
    assert matmul.parse(["dtype=fp8", "peers=cusparselt"]).peers == ("cusparselt",)
    for words in (["dtype=int8", "peers=torchao-cutlass"], ["peers=torchao-cutlass"]):
        with pytest.raises(ValueError, match=r"^peers='torchao-cutlass' is unknown"):
            matmul.parse(words)
