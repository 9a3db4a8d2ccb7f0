"""scripts/bench/producers8.py: on the CPU with a clock that is made up, and on a GPU."""

import json
from dataclasses import replace

import pytest
import torch

from scripts.bench import producers8
from sparsetrain.bench.products import Shape
from sparsetrain.bench.timing import Clocks

SMALL = Shape(tokens=70, features=24, hidden=48)


def test_one_call_gives_what_the_passes_apart_give():
    pairs = producers8.producers(SMALL, torch.device("cpu"))
    assert len(pairs) == 6
    for name, pair in pairs.items():
        one, apart = (pair[way]() for way in ("one", "apart"))
        for got, expected in zip(one, apart, strict=True):  # pyright: ignore
            got, expected = got.float(), expected.float()
            # The dense weight of the passes apart was rounded to 16 bits first.
            far = 0.1 if name == "quantize_across24" else 0
            assert (got - expected).abs().max() <= far * expected.abs().max() + 1e-4, name


def test_what_has_no_single_pass_is_left_out():
    pairs = producers8.producers(replace(SMALL, hidden=44), torch.device("cpu"))
    assert not any(name.startswith("squared_relu24") for name in pairs)


def test_the_command_shows_the_gain_and_writes_it(monkeypatch, tmp_path, capsys):
    def clock(run):
        run()
        return 30.0 if getattr(run, "__name__", "").endswith("apart") else 20.0

    monkeypatch.setattr(producers8, "cuda_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(producers8, "library_words", lambda: "a library")
    monkeypatch.setattr(producers8, "environment", lambda *words: {"command": words[0]})
    monkeypatch.setattr(producers8, "cuda_clocks", lambda: Clocks(clock, clock, lambda run: run))
    path = tmp_path / "a.json"
    producers8.main(["shapes=70x24x48", "rounds=2", f"json={path}"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "70x24x48 squared_relu24_quantize 20.0 30.0 1.50×" in shown
    content = json.loads(path.read_text("utf-8"))
    assert (content["rounds"], len(content["rows"])) == (2, 6)
    assert content["rows"][0]["op"] == "gelu_quantize"
    assert content["rows"][0]["one"]["median"] == 20


@pytest.mark.gpu
def test_the_command_times_every_op_on_a_gpu(capsys):
    producers8.main(["shapes=256x64x4352", "rounds=2"])
    assert "squared_relu24_backward_quantize" in capsys.readouterr().out
