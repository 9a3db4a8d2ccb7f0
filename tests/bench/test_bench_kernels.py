"""The trace of a step as a table: what overlaps counts once, and times are those of one step."""

from types import SimpleNamespace

import pytest

from scripts.bench.kernels import Kernel, main, profile_of


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
