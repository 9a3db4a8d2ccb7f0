"""2:4 products in 8 bits of other libraries: what they are given, and what becomes of refusals."""

import sys
from types import SimpleNamespace

import pytest
import torch

from scripts.bench.matmul8 import WithPeers, bench8
from scripts.bench.matmul8_peers import SPARSE_PEERS8
from scripts.bench.matmul_measure import NATIVE
from scripts.bench.matmul_report import product_lines, product_table
from sparsetrain.bench.products import Shape, make_product
from sparsetrain.bench.products8 import E4M3, PRODUCTS8

SMALL = Shape(tokens=144, features=64, hidden=128)

dtypes = pytest.mark.parametrize("dtype", SPARSE_PEERS8, ids=str)


def clock(run):
    """1 ms for ours, 2 for a peer, less with every algorithm."""
    run()
    if getattr(run, "__name__", "") == "native":
        return 1000.0
    return 2000.0 - getattr(run, "keywords", {}).get("alg_id", 0)


def bench_small(name, dtype, wanted=None):
    product = make_product(name, SMALL, torch.bfloat16, torch.device("cpu"))
    wanted = SPARSE_PEERS8[dtype] if wanted is None else wanted
    return bench8(product, dtype, wanted, clock, rounds=2, sms=132)


@pytest.fixture(autouse=True)
def dense(monkeypatch):
    """PyTorch's dense products in 8 bits, which it has on GPUs alone."""
    monkeypatch.setattr(WithPeers, "dense8", lambda narrow, peer: peer)


@pytest.fixture
def cusparselt(monkeypatch):
    """Four algorithms; the last gives a wrong result. It scales rows of A, not columns of b."""

    def sparse_mm(a, b, *, alpha, out_dtype, transpose_result, alg_id):
        if alg_id > 3:
            raise RuntimeError("no such algorithm")
        assert (a.dtype, alpha.shape) == (b.dtype, (a.shape[0],))
        result = (a.float() @ b.float()) * alpha[:, None] * (2 if alg_id == 3 else 1)
        return (result.T if transpose_result else result).to(out_dtype)

    def compress(a):
        assert a.is_contiguous()
        return a

    monkeypatch.setattr(torch.ops.aten, "_cslt_compress", compress, raising=False)
    monkeypatch.setattr(torch.ops.aten, "_cslt_sparse_mm", sparse_mm, raising=False)


@pytest.fixture
def torchao(monkeypatch):
    def linear(input, input_scale, weight, weight_meta, weight_scale, bias, out_dtype):
        assert (input_scale.shape, bias) == (input.shape[:1], None)
        assert (weight_meta, weight_scale.shape) == ("meta", weight.shape[:1])
        x, w = input.float() * input_scale[:, None], weight.float() * weight_scale[:, None]
        return (x @ w.T).to(out_dtype)

    module = SimpleNamespace(
        to_sparse_semi_structured_cutlass_sm9x_f8=lambda weight: (weight, "meta"),
        rowwise_scaled_linear_sparse_cutlass_f8f8=linear,
    )
    monkeypatch.setitem(sys.modules, "torchao.ops", module)


@dtypes
@pytest.mark.parametrize("name", PRODUCTS8)
def test_peers_that_run_are_right_and_timed(cusparselt, torchao, name, dtype):
    row = bench_small(name, dtype)
    assert row.skipped == {}
    for peer in SPARSE_PEERS8[dtype]:
        assert row.speed_up(peer) < row.speed_up(NATIVE)
        assert row.errors[peer] < 3e-3
    assert row.configs["cusparselt"] == "algorithm 0"
    assert row.configs["cusparselt-best"] == "algorithm 2 of 4", "the fastest one is wrong"
    heads = [column.header for column in product_table([row]).columns]
    assert ("ao" in heads) == (dtype == E4M3)


def test_a_wrong_result_is_listed_and_not_timed(cusparselt, monkeypatch):
    monkeypatch.setattr(torch.ops.aten, "_cslt_compress", lambda a: -a, raising=False)
    row = bench_small("act24 forward", torch.int8)
    assert row.skipped["cusparselt"].startswith("wrong result: error 2.0e+00")
    assert row.skipped["cusparselt-best"] == (
        "ValueError: none of 4 algorithms gives the right result"
    )


def test_a_dtype_that_is_refused_and_a_library_that_is_missing_are_told(cusparselt, monkeypatch):
    def refuse(a):
        raise RuntimeError("_cslt_compress: Float8_e4m3fn is not supported\nbacktrace")

    monkeypatch.setattr(torch.ops.aten, "_cslt_compress", refuse, raising=False)
    monkeypatch.setitem(sys.modules, "torchao.ops", None)
    lines = list(product_lines([bench_small("W24 dX", E4M3)]))
    refused = "RuntimeError: _cslt_compress: Float8_e4m3fn is not supported"
    assert lines[:2] == [
        f"not timed: cusparselt: {refused}",
        f"not timed: cusparselt-best: {refused}",
    ]
    assert lines[2].startswith("not timed: torchao-cutlass: ValueError: it needs torchao: pip inst")
