"""What a layer's products run on: the machine and the layer decide, and the report says so."""

from typing import Any

import pytest
import torch
from nn_checks import Mlp, seeded
from torch import nn

from sparsetrain import native
from sparsetrain.methods import SSTE, Activation24
from sparsetrain.native import Library, Machine
from sparsetrain.nn import Sparsity, sparse_linears, sparsify
from sparsetrain.products import ATEN, FP8, MASKED
from sparsetrain.select import ROW

NO_LIBRARY = Library(reason="no nvcc", fix="install it")


class Place:
    """A machine with one GPU, and what its library is and has."""

    def __init__(self, monkeypatch, tmp_path):
        self.library = Library(tmp_path / "key" / "library.so", ("80", "90a"))
        self.gpus: tuple[tuple[int, int], ...] = ((9, 0),)
        self.products = True
        monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(native, "look", lambda: Machine(self.gpus, (13, 0)))
        monkeypatch.setattr(native, "require", lambda: self.library)
        monkeypatch.setattr(native, "load", lambda: self.library)
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key

        def has(op: str, key: str) -> bool:  # dynamo, imported meanwhile, asks it of its own ops
            return self.products if op.startswith("sparsetrain::") else has_kernel(op, key)

        monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", has)


@pytest.fixture
def place(monkeypatch, tmp_path):
    return Place(monkeypatch, tmp_path)


def engines(model: nn.Module, engine: Any = "auto", **options: Any) -> dict[str, str]:
    """What the report says of each converted layer."""
    report = sparsify(model, Sparsity(**options), engine)
    for name, layer in sparse_linears(model).items():
        (row,) = (r for r in report.converted if r.name == name)
        assert row.engine.startswith(f"{layer.product.name}: "), "the report tells what runs"
    return {row.name: row.engine for row in report.converted}


def two_layers():
    return seeded(nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 100)))


def test_on_hopper_auto_is_native_for_any_layer(place):
    assert engines(two_layers()) == {"0": "native: sm_90", "1": "native: sm_90"}


def test_on_hopper_auto_is_native_for_weights_that_are_2_of_4_along_the_input_alone_too(place):
    assert set(engines(two_layers(), selection=ROW).values()) == {"native: sm_90"}
    assert set(engines(two_layers(), weight=SSTE()).values()) == {"native: sm_90"}


def test_where_the_model_runs_on_a_cpu_auto_is_masked_whatever_the_gpu(place):
    for gpu in ((9, 0), (8, 0)):
        place.gpus = (gpu,)
        report = sparsify(two_layers(), Sparsity(), on_cpu=True)
        assert {row.engine for row in report.converted} == {"masked: the model runs on a CPU"}


def test_on_ampere_and_ada_auto_is_aten_where_the_features_fit(place):
    for gpu in ((8, 0), (8, 6), (8, 9)):
        place.gpus = (gpu,)
        said = engines(two_layers())
        assert said["0"] == f"aten: sm_8{gpu[1]}"
        assert said["1"] == "masked: 100 features are not multiples of 64"


def test_aten_needs_no_library(place):
    place.gpus, place.library = ((8, 0),), NO_LIBRARY
    assert engines(two_layers())["0"] == "aten: sm_80"


def test_activations_have_the_engine_of_all_features_of_their_mlp(place):
    place.gpus = ((8, 0),)
    model = seeded(nn.Sequential(Mlp(64, 128), Mlp(64, 72)))
    said = engines(model, activation=Activation24())
    assert said["0"] == "aten: sm_80"
    assert said["0.fc1"] == said["0.fc2"] == "aten: with its MLP"
    assert said["1"] == "masked: 72 features are not multiples of 64"
    assert (model[0].product, model[1].product) == (ATEN, MASKED)


def test_what_keeps_auto_from_native_is_the_reason(place):
    place.products = False
    assert engines(two_layers())["0"] == "masked: the kernel library has no products"
    place.library = NO_LIBRARY
    assert engines(two_layers())["0"] == "masked: no nvcc"
    place.gpus = ((10, 0),)
    why = "masked: native products need compute capability 9.0, and this is sm_100"
    assert engines(two_layers())["0"] == why


def test_of_gpus_that_differ_the_current_one_counts(place, monkeypatch):
    place.gpus = ((8, 0), (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert engines(two_layers())["0"] == "native: sm_90"


@pytest.mark.parametrize(
    ("gpu", "engine", "message"),
    [
        ((8, 0), "native", r'need compute capability 9.0, and this is sm_80; use engine="auto"'),
        ((12, 0), "native", r'and this is sm_120; use engine="auto"'),
        ((9, 0), "aten", r'refuse sm_90, .* capability 8.x; use engine="auto"'),
        ((12, 0), "aten", r'refuse sm_120, .* capability 8.x; use engine="auto"'),
        ((8, 0), "aten", r"1 has 100×128, and 100 features are not .* 64; use engine=\"auto\""),
    ],
)
def test_an_engine_that_cannot_run_is_an_error_that_changes_nothing(place, gpu, engine, message):
    place.gpus = (gpu,)
    model = two_layers()
    with pytest.raises(ValueError, match=message):
        sparsify(model, Sparsity(), engine)
    assert sparse_linears(model) == {}


def test_native_without_a_library_is_an_error_on_a_gpu(place):
    place.library = NO_LIBRARY
    with pytest.raises(ValueError, match=r'native": no nvcc; install it; use engine="auto"$'):
        sparsify(two_layers(), Sparsity(), "native")


def test_on_a_cpu_aten_is_an_error_and_native_is_its_definition(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # `masked` would multiply, but not in fp8.
    with pytest.raises(ValueError, match=r'aten": there is no CUDA device.*; use engine="auto"$'):
        sparsify(two_layers(), Sparsity(format=FP8()), "aten")
    assert engines(two_layers(), "native")["0"] == "native: asked for"


def test_asked_for_is_said(place):
    assert engines(two_layers(), "masked")["0"] == "masked: asked for"
    assert engines(two_layers(), "native")["0"] == "native: asked for"
