"""The fastest way to run a product on this device: native configs, cuBLAS, cuSPARSELt (16 bits).

What is more than twice as far from float64 as cuBLAS is not timed. Of tiles, clusters and stream-K
the best three are found in stages, each with more rounds for about half as many; then they are
tried with every group. The last stage, with cuBLAS and cuSPARSELt, gives the numbers kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product as combinations

import torch
from torch import Tensor

from sparsetrain.bench.cusparselt import Accept, usable_cusparselt
from sparsetrain.bench.products import Product, why_wrong
from sparsetrain.bench.products8 import Quantized
from sparsetrain.bench.timing import Clock, Run, measure
from sparsetrain.products import Config, Entry, Problem

Stages = tuple[tuple[int, int], ...]
"""Rounds that are timed, and how many configs go on: of each stage."""

STAGES: Stages = ((2, 16), (4, 8), (8, 3))
GROUP_STAGES: Stages = ((4, 8), (8, 4))

SMALL_TILES = ("128x128",)
SMALL = 2**23
"""Small tiles are tried for results of at most as many elements: two rounds of 128x256 on an H200.
Products in 8 bits have no small tile.

TODO: fit it to what `tune` finds on an H200.
"""

_CLUSTERS = ((1, 1), (2, 1), (1, 2), (2, 2))
_GROUPS = (1, 2, 4, 8, 16)
_FIRST_GROUP = 8
_DENSE = "dense"
_CUSPARSELT = "cusparselt"

Install = Callable[[dict[Problem, Config]], object]
"""Has the library run a problem as a config says (`choice.install`)."""


@dataclass(frozen=True)
class Tuned:
    """What was measured of a product. refused: candidates that were not timed, with the reason."""

    entry: Entry
    refused: dict[str, str]


@dataclass(frozen=True)
class Native:
    """The product in the native kernel, run as `config` says once it is prepared."""

    product: Product | Quantized
    config: Config
    install: Install

    def prepare(self) -> None:
        self.install({self.product.problem: self.config})

    def __call__(self) -> Tensor:
        return self.product.native()


def first_configs(problem: Problem, tiles: list[str]) -> list[Config]:
    """Every tile, cluster and stream-K that is worth a try, with one group."""
    small = problem.M * problem.N <= SMALL and problem.dtype.itemsize == 2
    tiles = [tile for tile in tiles if small or tile not in SMALL_TILES]
    return [
        Config(tile, *cluster, _FIRST_GROUP, stream_k)
        for tile, cluster, stream_k in combinations(tiles, _CLUSTERS, (False, True))
    ]


def with_other_groups(configs: Iterable[Config]) -> list[Config]:
    """The same with every other group."""
    groups = [group for group in _GROUPS if group != _FIRST_GROUP]
    return [replace(config, group=group) for config in configs for group in groups]


def tune_product(
    product: Product | Quantized, tiles: list[str], install: Install, clock: Clock, rounds: int
) -> Tuned:
    """Measure configs of these tiles; leaves the library with the one that was timed last.

    rounds: of the last stage, at least 2. The entry's engine is `dense` where nothing is faster
    than what a dense layer runs.
    """
    of_cublas = product.error(product.masked())

    def accept(result: Tensor) -> str:
        return why_wrong(product.error(result), of_cublas)

    def timed(run: Run) -> float:
        if isinstance(run, Native):
            run.prepare()
        return clock(run)

    right, refused = _right(product, first_configs(product.problem, tiles), install, accept)
    right = _best(right, timed, STAGES)
    others = with_other_groups(run.config for run in right.values())
    grouped, refused_groups = _right(product, others, install, accept)
    right = _best({**right, **grouped}, timed, GROUP_STAGES)
    runs: dict[str, Run] = {_DENSE: product.dense}
    if isinstance(product, Product):
        cusparselt = usable_cusparselt(product, accept)
        if isinstance(cusparselt, str):
            refused[_CUSPARSELT] = cusparselt
        else:
            runs[_CUSPARSELT] = cusparselt
    times = measure({**runs, **right}, timed, rounds)
    name = min(times, key=lambda name: times[name].median)
    us, dense_us = times[name].median, times[_DENSE].median
    if name in right:
        entry = Entry("native", right[name].config, us, dense_us)
    else:
        entry = Entry("cusparselt" if name == _CUSPARSELT else "dense", None, us, dense_us)
    return Tuned(entry, {**refused, **refused_groups})


def _best(right: dict[str, Native], clock: Clock, stages: Stages) -> dict[str, Native]:
    for rounds, most in stages:
        if len(right) > most:
            times = measure(right, clock, rounds)
            names = sorted(right, key=lambda name: times[name].median)[:most]
            right = {name: right[name] for name in names}
    return right


def _right(
    product: Product | Quantized,
    candidates: list[Config],
    install: Install,
    accept: Accept,
) -> tuple[dict[str, Native], dict[str, str]]:
    """The configs whose result is right, and why the others are not among them."""
    right, refused = {}, {}
    for config in candidates:
        run = Native(product, config, install)
        _poison(product)
        try:
            run.prepare()
            reason = accept(run())
        except (RuntimeError, ValueError) as error:  # how the library refuses a config
            reason = str(error).splitlines()[0]
        if reason:
            refused[str(config)] = reason
        else:
            right[str(config)] = run
    return right, refused


def _poison(product: Product | Quantized) -> None:
    """Leave NaN where the allocator will put the result: a tile that is not written must show."""
    problem = product.problem
    size = problem.M * problem.N  # in 16 bits each, whatever the operands have
    torch.full((size,), float("nan"), dtype=torch.bfloat16, device=product.b.device)
