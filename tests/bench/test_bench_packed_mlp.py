"""The parts of a packed MLP: each fused part computes what the parts apart do."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scripts.bench import packed_mlp
from sparsetrain.bench.products import Shape
from sparsetrain.bench.timing import Clocks
from sparsetrain.cli.bench_words import cuda_device
from sparsetrain.reference.quantize import dequantize


def test_fused_parts_give_what_the_parts_give(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    torch.manual_seed(0)
    runs = packed_mlp.parts(Shape(12, 16, 32), torch.device("cpu"))
    results: dict[str, Any] = {name: run() for name, run in runs.items()}
    expected = F.gelu(results["fc1, bf16"].float())
    torch.testing.assert_close(
        results["fc1 with GELU at its end"].float(), expected, rtol=0.02, atol=0.02
    )
    torch.testing.assert_close(results["GELU: the op"], results["GELU"], rtol=0.01, atol=0.01)
    for one, other in (
        ("GELU and quantize in one graph", "GELU, then the op"),
        ("quantize: in the graph", "quantize: the op"),
    ):
        assert torch.equal(dequantize(*results[one]), dequantize(*results[other]))
    assert torch.equal(
        dequantize(*results["GELU and quantize: one op"]),
        dequantize(*results["GELU, then the op"]),
    )
    # GELU at the end of a product takes sums that were not rounded, and in fp8 other scales.
    for dtype, most in (("bf16", 0.01), ("fp8", 0.06), ("int8", 0.0)):
        one = results[f"MLP, {dtype}, one function"].float()
        apart = results[f"MLP, {dtype}, GELU Inductor's"].float()
        assert one.shape == (12, 16)
        assert (one - apart).norm() <= most * apart.norm()
    exact = results["fc1, bf16"].float()
    assert (results["fc1, fp8, x quantized"].float() - exact).norm() < 0.08 * exact.norm()


def test_the_command_shows_a_column_for_each_shape(monkeypatch, capsys):
    def clock(run):
        run()
        return 7.0

    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(packed_mlp, "cuda_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(packed_mlp, "library_words", lambda: "a library")
    monkeypatch.setattr(packed_mlp, "cuda_clocks", lambda: Clocks(clock, clock, lambda run: run))
    packed_mlp.main(["shapes=8x16x32,4x8x8", "rounds=2"])
    assert "GELU and quantize in one graph 7 7" in " ".join(capsys.readouterr().out.split())


def test_without_a_device_one_error_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        cuda_device()
    with pytest.raises(ValueError, match="shape= is no option of bench: did you mean shapes"):
        packed_mlp.main(["shape=8x8x8"])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_the_parts_are_timed_on_a_gpu(capsys):
    packed_mlp.main(["shapes=256x128x512", "rounds=2"])
    assert "fc1 with GELU at its end" in capsys.readouterr().out
