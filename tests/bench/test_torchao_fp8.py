"""The variant of `bench step` that is torchao's: where it is there, missing, and refuses."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparsetrain.bench import step
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.rounds import TOTAL, run_parts
from sparsetrain.bench.step import bench_model
from sparsetrain.bench.step_rows import Vit
from sparsetrain.bench.torchao_fp8 import INSTALL, make_torchao_fp8
from sparsetrain.bench.variants import DENSE, PEER_VARIANTS, VARIANTS, Setting
from sparsetrain.cli.bench_step import parse

TORCHAO = PEER_VARIANTS["torchao-fp8"]


class Small(nn.Module):
    """Linear layers that the variant's globs name, and one that they do not."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(48, 16), "act": nn.GELU()})
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        return self.head(self.mlp["act"](self.mlp["fc1"](images.flatten(1))))


class Other(nn.Linear):
    """torchao's layer."""


def convert_to_float8_training(module, *, module_filter_fn, config):
    assert config == "config of rowwise"
    for path, layer in list(module.named_modules()):
        if module_filter_fn(layer, path):
            layer.__class__ = Other


@pytest.fixture
def torchao(monkeypatch):
    config = SimpleNamespace(from_recipe_name=lambda name: f"config of {name}")
    module = SimpleNamespace(
        Float8LinearConfig=config, convert_to_float8_training=convert_to_float8_training
    )
    monkeypatch.setitem(sys.modules, "torchao.float8", module)
    return module


def bench(monkeypatch, *variants):
    monkeypatch.setattr(step, "compiled", lambda model, variant, mode: model)

    def clock(parts):
        run_parts(parts)
        return {**dict.fromkeys(parts, 1000.0), TOTAL: 4000.0}

    gauges = Gauges(clock, lambda: 0, lambda run: 0, "no counter")
    started: list[str] = []
    vit = Vit("small", "small", batch=2, pixels=4, classes=10)
    setting = Setting(2, "default", torch.device("cpu"))
    result = bench_model(vit, Small, variants, setting, gauges, started.append)
    return result, [words.split()[1].rstrip(":") for words in started if "first" in words]


def test_layers_that_are_named_are_torchaos_and_it_starts_last(torchao, monkeypatch):
    model = Small()
    make_torchao_fp8(model, TORCHAO.torchao_fp8)
    assert (type(model.mlp["fc1"]), type(model.head)) == (Other, nn.Linear)
    variants = TORCHAO, VARIANTS["dense-fp8"], VARIANTS[DENSE]
    result, started = bench(monkeypatch, *variants)
    assert [row.variant for row in result.rows] == list(variants)
    assert started == [DENSE, "dense-fp8", "torchao-fp8"]


def test_without_torchao_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    result, _ = bench(monkeypatch, VARIANTS[DENSE], TORCHAO)
    assert result.skipped["torchao-fp8"].startswith(f"ValueError: it needs torchao: {INSTALL} (")


def test_what_torchao_refuses_is_told_and_an_error_of_ours_is_raised(torchao, monkeypatch):
    def refuse(module, *, module_filter_fn, config):
        raise AssertionError("not on this device\nmore")

    torchao.convert_to_float8_training = refuse
    result, _ = bench(monkeypatch, VARIANTS[DENSE], TORCHAO)
    assert result.skipped == {"torchao-fp8": "AssertionError: not on this device"}

    def fail(model, *rest):
        raise AssertionError("ours")

    monkeypatch.setattr(step, "prepare", fail)
    with pytest.raises(AssertionError, match="ours"):
        bench(monkeypatch, VARIANTS[DENSE])


def test_it_runs_only_where_it_is_named():
    assert TORCHAO not in parse([]).variants
    assert parse(["variants=fp8,torchao-fp8"]).variants[-1] == TORCHAO
    with pytest.raises(ValueError, match="variants='torchao-fp' is unknown: did you mean torchao-"):
        parse(["variants=torchao-fp"])
    with pytest.raises(ValueError, match="variants='torchao-fp8' is unknown"):
        parse(["mode=inference", "variants=torchao-fp8"])
