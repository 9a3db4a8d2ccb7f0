"""The peers of scripts/bench/mlp.py: those that run, that are wrong, that refuse."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scripts.bench import mlp_measure, mlp_peers
from scripts.bench.mlp_measure import bench_shape
from scripts.bench.mlp_peers import PEERS
from scripts.bench.mlp_report import mlp_lines
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.products import Shape
from sparsetrain.bench.rounds import TOTAL, run_parts
from sparsetrain.bench.variants import VARIANTS, Setting


def clock(parts):
    run_parts(parts)
    return {TOTAL: 4000.0}


GAUGES = Gauges(clock, lambda: 0, lambda run: 0, "no counter")


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(mlp_measure, "compiled", lambda model, variant, mode: model)
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: model)


def bench_peers(*names):
    """Beside the dense MLP."""
    shape, setting = Shape(128, 32, 64), Setting(2, "default", torch.device("cpu"))
    return bench_shape(shape, [VARIANTS["dense"]], names, setting, GAUGES, lambda words: None)


@pytest.mark.slow
def test_peers_that_refuse_are_listed_with_the_reason(uncompiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.sparsity.training", None)
    monkeypatch.setattr(mlp_peers, "load_xformers", lambda: "ImportError: no xformers")
    result = bench_peers(*PEERS)
    assert set(result.skipped) == set(PEERS)
    assert result.skipped["xformers-cutlass"] == "ImportError: ImportError: no xformers"
    assert "torchao" in result.skipped["torchao-weights"]
    assert "not timed: xformers-cutlass: ImportError: ImportError: no xformers" in mlp_lines(result)


class Halved(nn.Linear):
    """A peer's layer: right but for every second weight, which is zero."""

    @classmethod
    def from_dense(cls, linear):
        layer = cls(linear.in_features, linear.out_features)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer

    def forward(self, input):
        keep = torch.arange(self.in_features) % 4 < 3
        return nn.functional.linear(input, self.weight * keep, self.bias)


class Broken(Halved):
    def forward(self, input):
        return -super().forward(input)


def swap(block, linears):
    for name, kind in linears.items():
        child = name.removeprefix("mlp.")
        setattr(block.mlp, child, kind.from_dense(getattr(block.mlp, child)))


@pytest.mark.slow
def test_a_peer_that_runs_is_timed_and_one_that_is_wrong_is_not(uncompiled, monkeypatch):
    torchao = SimpleNamespace(
        SemiSparseLinear=Halved,
        SemiSparseActivationLinear=Broken,
        swap_linear_with_semi_sparse_linear=swap,
    )
    monkeypatch.setitem(sys.modules, "torchao.sparsity.training", torchao)
    result = bench_peers("torchao-weights", "torchao-activations")
    assert [(row.name, row.runs) for row in result.rows] == [
        ("dense", "compiled"),
        ("torchao-weights", "compiled"),
    ]
    assert 0.1 < result.rows[1].error < 1
    assert result.skipped["torchao-activations"].startswith("wrong result: 2.0")


@pytest.mark.slow
def test_a_peer_that_does_not_compile_runs_in_eager_mode(uncompiled, monkeypatch):
    def refuse(model, mode=None):
        raise RuntimeError("no graph")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(mlp_peers, "load_xformers", lambda: print)
    seen = []

    def sparsify24_ste(weight, algo, backend):
        seen.append((weight.dtype, algo, backend))
        return weight

    module = SimpleNamespace(sparsify24_ste=sparsify24_ste)
    monkeypatch.setitem(sys.modules, "xformers.ops.sp24", module)
    result = bench_peers("xformers-cutlass", "xformers-cusparselt")
    assert [row.runs for row in result.rows] == ["compiled", "eager", "eager"]
    assert set(seen) == {
        (torch.bfloat16, "largest_abs_values_greedy", backend)
        for backend in ("cutlass", "cusparselt")
    }
    assert result.rows[1].error < 0.02, "the same as dense, as nothing was pruned"
