"""What should run a product: a pure function of numbers, which `matmul random=…` tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsetrain.products import Config, Entry, Problem, ProductEngine
from sparsetrain.products.problem import DENSE_FLOPS_PER_US, LAUNCH_US, LEAST_GAIN


@dataclass(frozen=True)
class Choice:
    """What should run a problem.

    config: of the native kernel; None leaves it to the library. why: a sentence.
    speed_up: over the dense product, None where it was not measured.
    """

    engine: ProductEngine
    config: Config | None
    why: str
    speed_up: float | None = None


def choose(
    problem: Problem,
    entries: Mapping[Problem, Entry] | None = None,
    expected_us: float | None = None,
) -> Choice:
    """What should run a problem: what was measured for exactly it, else a guess from its shape.

    expected_us: what the library's model says of the native kernel (`products.expected_us`); None
        where there is no library.
    """
    entry = None if entries is None else entries.get(problem)
    if entry is not None:
        what = f"{entry.engine} took {entry.us:.1f} µs and dense {entry.dense_us:.1f} µs"
        if entry.engine == "dense":
            what = f"nothing was faster than dense, {entry.dense_us:.1f} µs"
        return Choice(entry.engine, entry.config, f"measured here: {what}", entry.speed_up)
    if expected_us is None:
        return Choice("dense", None, "not measured, and no kernels to expect anything of")
    dense_us, native_us = problem.flops / DENSE_FLOPS_PER_US, expected_us + LAUNCH_US
    why = f"not measured; expected {native_us:.0f} µs, dense {dense_us:.0f} µs"
    return Choice("native" if dense_us >= LEAST_GAIN * native_us else "dense", None, why)
