"""Random products: is what `choose` picks ever slower than dense?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.bench.choice import Choice
from scripts.bench.matmul_measure import no_kernel
from sparsetrain.bench.cusparselt import compressed, cusparselt_call
from sparsetrain.bench.products import Product, Shape, problem_of, why_wrong
from sparsetrain.bench.timing import Clock, Run, Times, measure
from sparsetrain.products import Problem

TOKENS = (64, 65536)
FEATURES = (256, 16384)
"""Drawn so that every doubling is as likely; features are multiples of 64."""

MOST_BYTES = 20 * 10**9
MOST_FLOPS = 4 * 10**13
"""Of one product: its dense operands and result, and 2·M·N·K."""


@dataclass(frozen=True)
class AutoRow:
    """One random product. again: the dense product a second time, in the same rounds."""

    name: str
    shape: Shape
    problem: Problem
    engine: str
    why: str
    dense: Times
    again: Times
    auto: Times

    @property
    def title(self) -> str:
        return f"{self.name} {self.shape}"

    @property
    def speed_up(self) -> float:
        return self.dense.median / self.auto.median


def draw(
    count: int, seed: int, names: tuple[str, ...], dtype: torch.dtype
) -> list[tuple[str, Shape]]:
    """Random products of `names`, none too large. The same for the same arguments anywhere."""
    generator = random.Random(seed)
    drawn: list[tuple[str, Shape]] = []
    while len(drawn) < count:
        name = generator.choice(names)
        tokens = _size(generator, TOKENS, 1)
        shape = Shape(tokens, _size(generator, FEATURES, 64), _size(generator, FEATURES, 64))
        problem = problem_of(name, shape, dtype)
        M, N, K = problem.M, problem.N, problem.K
        size = dtype.itemsize * (M * K + K * N + M * N)
        if size <= MOST_BYTES and problem.flops <= MOST_FLOPS:
            drawn.append((name, shape))
    return drawn


def bench_auto(product: Product, choice: Choice, clock: Clock, rounds: int) -> AutoRow:
    """Time what the choice says, dense, and dense again.

    Raises ValueError where the engine's result is not right or comes from no kernel, and
    RuntimeError where cuSPARSELt refuses the product.
    """
    auto = _engine(product, choice)
    if choice.engine != "dense":
        of_cublas = product.error(product.masked())
        wrong = no_kernel(product) if choice.engine == "native" else ""
        wrong = wrong or why_wrong(product.error(auto()), of_cublas)
        if wrong:
            raise ValueError(f"{choice.engine} was chosen for {product.title}: {wrong}")
    runs: dict[str, Run] = {
        "dense": product.dense,
        "again": product.dense,
        "auto": auto,
    }
    times = measure(runs, clock, rounds)
    return AutoRow(
        name=product.name,
        shape=product.shape,
        problem=product.problem,
        engine=choice.engine,
        why=choice.why,
        dense=times["dense"],
        again=times["again"],
        auto=times["auto"],
    )


def noise(rows: Sequence[AutoRow]) -> float:
    """How far from 1 the ratios of dense to itself lie, all but the 5 % that are furthest."""
    distances = sorted(abs(row.dense.median / row.again.median - 1) for row in rows)
    return distances[math.ceil(0.95 * len(distances)) - 1]


def _engine(product: Product, choice: Choice) -> Callable[[], Tensor]:
    if choice.engine == "native":
        return product.native
    if choice.engine == "dense":
        return product.masked
    return cusparselt_call(compressed(product), product)


def _size(generator: random.Random, bounds: tuple[int, int], multiple: int) -> int:
    low, high = (math.log(bound) for bound in bounds)
    size = math.exp(generator.uniform(low, high))
    return max(bounds[0], round(size / multiple) * multiple)
