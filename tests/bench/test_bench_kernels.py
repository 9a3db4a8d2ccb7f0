"""The trace of a step as a table: what overlaps counts once, and times are those of one step."""

from types import SimpleNamespace

import pytest
import torch

from scripts.bench import kernels
from scripts.bench.kernels import main, make_step
from sparsetrain.bench.gpu_trace import Kernel, profile_of
from sparsetrain.bench.inference import InferenceStep
from sparsetrain.bench.step_rows import Vit
from sparsetrain.bench.variants import INFERENCE_VARIANTS, VARIANTS

VIT = Vit("tiny", "vit_tiny_patch16_224", batch=2, pixels=32, classes=3)


def event(name, start, end, device="CUDA"):
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=span, device_type=SimpleNamespace(name=device))


def test_two_steps_are_counted_as_one_and_overlaps_once():
    events = [
        event("product", 0, 1000),
        event("pack", 500, 1500),
        event("launch", 0, 9000, "CPU"),
        event("product", 2000, 4000),
    ]
    profile = profile_of(events, steps=2)
    assert profile.span == 2.0
    assert profile.busy == 1.75
    assert profile.kernels == (Kernel("product", 1.5, 1.0), Kernel("pack", 0.5, 0.5))


def test_a_word_that_it_does_not_know_is_named():
    with pytest.raises(ValueError, match="model= is no option"):
        main(["model=vit_l"])


@pytest.mark.parametrize("variant", [VARIANTS["all"], INFERENCE_VARIANTS["bf16-24"]])
def test_the_step_that_is_traced_is_a_step_of_the_variant(monkeypatch, variant):
    monkeypatch.setattr(kernels, "compiled", lambda model, variant: model)
    step = make_step(VIT, variant, torch.device("cpu"))
    step.run()
    result = step.out if isinstance(step, InferenceStep) else step.loss
    assert result.isfinite().all()
