"""What the products of a layer gain, at its number of tokens, and what `auto` makes of it."""

import re

import pytest
import torch
from nn_checks import Mlp, seeded
from test_engine import Place
from torch import nn

from sparsetrain.bench.products import Shape, problem_of
from sparsetrain.methods import SSTE, STE, Activation24
from sparsetrain.nn import Part, Sparsity, count_tokens, gains, sparsify
from sparsetrain.nn.engine import Engines
from sparsetrain.nn.gains import products_of
from sparsetrain.products import FP8, MASKED, NATIVE, Config, Entry, Problem
from sparsetrain.select import ROW

CONFIG = Config("128x256", 1, 1, 8, False)


@pytest.fixture
def place(monkeypatch, tmp_path):
    class Properties:
        multi_processor_count = 132

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    # 5 µs of each are the launch; dense: 2·M·N·K at 720 TFLOP/s.
    monkeypatch.setattr(gains, "expected_us", lambda problem, sms: problem.N / 100)
    return Place(monkeypatch, tmp_path)


def test_the_products_are_those_that_tune_and_bench_time():
    def named(name: str, shape: Shape):
        return problem_of(name, shape, torch.bfloat16)

    fc1, fc2 = Shape(500, 64, 256), Shape(500, 32, 256)
    assert products_of(500, (256, 64), Part(weight=STE(mvue=True))) == {
        "forward": named("W24 forward", fc1),
        "backward 1": named("W24 dX", fc1),
        "backward 2": named("dz24 dW", fc1),
    }
    activations = {
        "backward 1": named("dz24 dX", fc1),
        "backward 2": named("dz24 dW", fc1),
        "backward 3": named("act24 dW", fc2),
    }
    assert products_of(500, (64, 256, 32), Part(weight=None, activation=Activation24())) == {
        "forward": named("act24 forward", fc2),
        **activations,
    }


def test_products_in_fp8_are_recorded_beside_those_in_16_bits_and_told_with_what_they_gain(place):
    part = Part(activation=Activation24(), format=FP8())
    products = products_of(500, (64, 256, 32), part)
    narrow = [problem.dtype == torch.float8_e4m3fn for problem in products.values()]
    assert narrow == [True] * 4 + [False] * 2
    assert products["forward 1"] == Problem(
        torch.float8_e4m3fn, 256, 500, 64, "columns", transpose_out=True
    )
    engines = Engines("auto", (9, 0), place.library, {})
    engine, why = engines.of_part("fc", Part(format=FP8()), (256, 64), 500)
    assert engine == "native"
    assert re.match(r"native: fp8: forward \d.*, backward \d.*, expected, without quant", why)


@pytest.mark.parametrize("method", [STE(), SSTE(mvue=False)], ids=["STE", "S-STE"])
def test_weights_that_are_2_of_4_along_the_input_alone_have_one_sparse_product(method):
    assert list(products_of(500, (256, 64), Part(weight=method, selection=ROW))) == ["forward"]


@pytest.mark.parametrize("activation", [Activation24(), None], ids=["all", "GELU"])
def test_two_sparse_weights_add_a_product_each_way(activation):
    products = products_of(500, (64, 256, 32), Part(activation=activation))
    names = ["forward 1", "forward 2"] + [f"backward {i}" for i in range(1, 5 if activation else 3)]
    assert list(products) == names
    both = products_of(500, (256, 64), Part())
    assert products["forward 1"] == both["forward"]


def test_a_layer_whose_products_gain_is_native_and_says_by_how_much(place):
    model = seeded(nn.Sequential(nn.Linear(4096, 4096)))
    report = sparsify(model, Sparsity(), tokens={"0": 16384})
    # 2 · 16384 · 4096² FLOP take 763.5 µs dense, and 163.84 + 5 µs are expected.
    assert report.converted[0].engine == "native: forward 4.52×, backward 4.52×, expected"
    assert model[0].product == NATIVE


def test_a_layer_whose_products_do_not_gain_is_masked_and_says_so(place):
    model = seeded(nn.Sequential(nn.Linear(64, 64), nn.Linear(4096, 4096)))
    report = sparsify(model, Sparsity(), tokens={"0": 8, "1": 16384})
    why = "masked: native may be no faster here, below 1.1× in all expected: "
    assert report.converted[0].engine == f"{why}forward 0.00×, backward 0.00×"
    assert [layer.product for layer in model] == [MASKED, NATIVE]


@pytest.mark.parametrize(
    ("gain", "expected", "measured"),
    [(0.99, "masked", "masked"), (1.05, "masked", "native"), (1.11, "native", "native")],
)
def test_a_tenth_is_asked_of_what_is_expected_and_any_gain_of_what_is_measured(
    place, monkeypatch, gain, expected, measured
):
    shape = 1024, 1024
    dense_us = 2 * 8192 * 1024**2 / 720e6
    monkeypatch.setattr(gains, "expected_us", lambda problem, sms: dense_us / gain - 5)
    products = products_of(8192, shape, Part()).values()
    table = {problem: Entry("native", CONFIG, 10.0, 10.0 * gain) for problem in products}
    for entries, engine in (({}, expected), (table, measured)):
        engines = Engines("auto", (9, 0), place.library, entries)
        found, why = engines.of_part("fc", Part(), shape, 8192)
        assert found == engine, why


def test_what_was_measured_goes_before_what_is_expected():
    forward = products_of(8, (64, 64), Part(selection=ROW))["forward"]
    entries = {forward: Entry("native", CONFIG, 10.0, 12.5)}
    assert gains.gain_of(forward, entries, 132) == gains.Gain(10.0, 12.5, measured=True)
    # cuSPARSELt won, which layers do not run: the kernel was no faster than dense.
    entries = {forward: Entry("cusparselt", None, 10.0, 12.5)}
    assert gains.gain_of(forward, entries, 132) == gains.Gain(12.5, 12.5, measured=True)


def test_an_engine_that_was_asked_for_is_not_discussed(place):
    model = seeded(nn.Sequential(nn.Linear(64, 64)))
    report = sparsify(model, Sparsity(), "native", tokens={"0": 8})
    assert report.converted[0].engine == "native: asked for"


def test_an_mlp_decides_for_its_linears_too(place):
    model = seeded(nn.Sequential(Mlp(64, 128)))
    sparsity = Sparsity(weight=STE(), activation=Activation24())
    report = sparsify(model, sparsity, tokens={"0.fc1": 8, "0.fc2": 8})
    said = {row.name: row.engine for row in report.converted}
    assert said["0.fc1"] == said["0.fc2"] == "masked: with its MLP"
    for product in ("forward 1", "forward 2", *(f"backward {i}" for i in range(1, 5))):
        assert f"{product} 0." in said["0"]
    assert model[0].product == MASKED


def test_tokens_are_counted_without_computing_anything():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.head = nn.Linear(12, 8), nn.Linear(8, 3)
            self.register_buffer("offset", torch.ones(8))

        def forward(self, x):
            return self.head((self.patches(x) + self.offset).mean(1))

    model = Net().train()
    model.compile(backend=lambda *graph: pytest.fail("it compiled"))
    counted = count_tokens(model, torch.empty(5, 7, 12, device="meta"))
    assert counted == {"patches": 35, "head": 5}
    assert model.training
    assert not model.patches._forward_pre_hooks
