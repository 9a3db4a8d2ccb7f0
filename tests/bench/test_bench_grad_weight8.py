"""scripts/bench/grad_weight8.py: on the CPU with a clock that is made up, and on a GPU."""

import json

import pytest
import torch

from scripts.bench import grad_weight8
from sparsetrain.bench.products import Shape, make_product
from sparsetrain.bench.products8 import quantized
from sparsetrain.bench.timing import Clocks, Times
from sparsetrain.reference.quantize import dequantize

SMALL = Shape(tokens=144, features=64, hidden=128)
PARTS = ("bf16", "fp8", "narrow24", "quantize", "inductor")


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)


@pytest.mark.parametrize("name", grad_weight8.GRADIENTS)
def test_the_parts_are_the_gradient_and_its_operands(name, uncompiled):
    product = make_product(grad_weight8.GRADIENTS[name], SMALL, torch.bfloat16, torch.device("cpu"))
    narrow = quantized(product)
    runs = grad_weight8.parts(product, narrow)
    assert tuple(runs) == PARTS
    wide, eight = runs["bf16"](), runs["fp8"]()
    assert isinstance(wide, torch.Tensor)
    assert isinstance(eight, torch.Tensor)
    assert wide.dtype == eight.dtype == torch.float32
    left, right = product.operands(product.pruned)
    torch.testing.assert_close(wide, left.float() @ right.float())
    assert wide.shape == ((128, 64) if name == "dw1" else (64, 128))
    assert 0.01 < (eight - wide).norm() / wide.norm() < 0.06
    for part, operand in (("quantize", product.b), ("inductor", product.b)):
        q, scales = runs[part]()  # pyright: ignore
        assert torch.equal(dequantize(q, scales), dequantize(narrow.b, narrow.scales_b))
        assert (dequantize(q, scales).T - operand.float()).norm() < 0.04 * operand.float().norm()
    values, *_ = runs["narrow24"]()  # pyright: ignore
    assert torch.equal(values.float(), narrow.values.float())


def test_what_is_saved_counts_the_faster_way_to_make_the_dense_operand():
    narrow = quantized(make_product("dz24 dW", SMALL, torch.bfloat16, torch.device("cpu")))
    medians = dict(zip(PARTS, (100.0, 60.0, 10.0, 25.0, 15.0), strict=True))
    times = {part: Times(median, median - 1, median + 1) for part, median in medians.items()}
    found = grad_weight8.result("dw1", narrow, times)
    assert (found["operands"], found["saved"]) == (25, 15)
    assert found["error"] < 3e-3
    assert found["times"]["fp8"] == {"median": 60, "low": 59, "high": 61}


def test_the_command_shows_a_row_for_each_gradient_and_writes_them(
    uncompiled, monkeypatch, tmp_path, capsys
):
    def clock(run):
        run()
        return 7.0

    monkeypatch.setattr(grad_weight8, "cuda_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(grad_weight8, "library_words", lambda: "a library")
    monkeypatch.setattr(grad_weight8, "environment", lambda *words: {"command": words[0]})
    monkeypatch.setattr(grad_weight8, "cuda_clocks", lambda: Clocks(clock, clock, lambda run: run))
    path = tmp_path / "a.json"
    grad_weight8.main(["shapes=144x64x128", "rounds=2", f"json={path}"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "dw1 144x64x128 7 7 7 7 7 14 -14" in shown
    content = json.loads(path.read_text("utf-8"))
    assert (content["rounds"], len(content["gradients"])) == (2, 2)
    assert content["about"]["command"].endswith(f"shapes=144x64x128 rounds=2 json={path}")
    assert content["gradients"][1]["gradient"] == "dw2"
    assert content["gradients"][1]["shape"] == {"tokens": 144, "features": 64, "hidden": 128}


def test_a_wrong_word_is_named():
    with pytest.raises(ValueError, match="shape= is no option of bench: did you mean shapes"):
        grad_weight8.main(["shape=8x8x8"])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_the_command_times_both_gradients_on_a_gpu(capsys):
    grad_weight8.main(["shapes=1088x256x512", "rounds=2"])
    assert "dw2 1088x256x512" in " ".join(capsys.readouterr().out.split())
