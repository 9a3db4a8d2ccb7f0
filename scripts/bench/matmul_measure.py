"""The products of an MLP, ours against cuBLAS and the peers, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import geometric_mean

import torch
from torch import Tensor

from scripts.bench.matmul_peers import PEERS8, Contender, usable_peers
from scripts.bench.sparsify_measure import NO_KERNEL, has_kernel
from sparsetrain.bench.products import Product, Shape, why_wrong
from sparsetrain.bench.timing import Clock, Run, Times, measure
from sparsetrain.products import Config, Problem, tile_names

NATIVE = "sparsetrain"
DENSE = "cublas"
DENSE_TRANSPOSED = "cublas, stored transposed"


@dataclass(frozen=True)
class Row:
    """What was measured of one product; the dicts have a key for each candidate that was timed.

    times     µs of a call, warm (bench.timing)
    errors    relative, of a sample of the result, against float64
    configs   which of its ways a candidate took, where it has several
    skipped   the candidates that were not timed, with the reason
    moved     bytes that must be moved, of ours and of a dense product
    """

    name: str
    shape: Shape
    problem: Problem
    flops: int
    moved: dict[str, float]
    times: dict[str, Times]
    errors: dict[str, float]
    configs: dict[str, str]
    skipped: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.name} {self.shape}"

    def rate(self, candidate: str) -> float:
        """TFLOP/s of the dense product in the candidate's time."""
        return self.flops / self.times[candidate].median / 1e6

    def speed_up(self, candidate: str) -> float:
        """Over what a dense layer runs."""
        return self.times[DENSE].median / self.times[candidate].median

    def speed_up_over_best(self, candidate: str) -> float:
        """Over the faster of what a dense layer runs and the same stored transposed."""
        best = min(self.times[DENSE].median, self.times[DENSE_TRANSPOSED].median)
        return best / self.times[candidate].median

    def speed_up_over_8_bits(self) -> float | None:
        """Of ours over the fastest dense product of its 8-bit dtype; None where none was timed."""
        names = PEERS8.get(self.problem.dtype, ())
        peers = [self.times[name].median for name in names if name in self.times]
        return min(peers) / self.times[NATIVE].median if peers and NATIVE in self.times else None


@dataclass(frozen=True)
class Summary:
    """Speed-ups of a candidate over `count` products."""

    count: int
    mean: float
    worst: float
    worst_of: str
    mean_over_best: float


def bench_product(
    product: Product, wanted: tuple[str, ...], clock: Clock, rounds: int, sms: int
) -> Row:
    """Check every candidate's result, then time those that are right.

    wanted: peers, of matmul_peers.PEERS. sms: multiprocessors of the device.
    """
    of_cublas = product.error(product.masked())

    def accept(result: Tensor) -> str:
        return why_wrong(product.error(result), of_cublas)

    peers, skipped = usable_peers(product, wanted, accept, clock)
    ours = {NATIVE: Contender(product.native, native_config(product.problem, sms))}
    reason = no_kernel(product) or accept(product.native())
    if reason:
        ours, skipped = {}, {NATIVE: reason, **skipped}
    checked = {**ours, **peers}
    runs: dict[str, Run] = {
        DENSE: product.dense,
        DENSE_TRANSPOSED: product.dense_transposed,
        **{name: candidate.run for name, candidate in checked.items()},
    }
    return Row(
        name=product.name,
        shape=product.shape,
        problem=product.problem,
        flops=product.flops,
        moved={NATIVE: product.bytes_moved(True), DENSE: product.bytes_moved(False)},
        times=measure(runs, clock, rounds, round_of(runs)),
        errors={
            DENSE: of_cublas,
            **{name: product.error(candidate.result()) for name, candidate in checked.items()},
        },
        configs={name: c.config for name, c in checked.items() if c.config},
        skipped=skipped,
    )


def round_of(runs: Iterable[str]) -> list[str]:
    """The order of a round: dense three times, as everything is divided by its median."""
    others = [name for name in runs if name != DENSE]
    return [name for first in range(3) for name in (DENSE, *others[first::3])]


def no_kernel(product: Product) -> str:
    """Why `native` is not worth timing here, '' where it is: on CUDA it needs its kernel."""
    return NO_KERNEL if product.b.is_cuda and not has_kernel("matmul24") else ""


def native_config(problem: Problem, sms: int) -> str:
    """What the library runs: '256x192 cluster 1x2 group 8 stream-k'; '' if it does not say."""
    ops = torch.ops.sparsetrain
    if not hasattr(ops, "_matmul24_choice"):
        return ""
    chosen = ops._matmul24_choice(torch.tensor([problem.numbers()]), sms)
    return str(Config.from_numbers(chosen[0].tolist(), tile_names()))


def summary(rows: Iterable[Row], candidate: str) -> Summary | None:
    """Geometric mean and minimum over the rows that timed the candidate, None without any."""
    rows = [row for row in rows if candidate in row.times]
    if not rows:
        return None
    worst = min(rows, key=lambda row: row.speed_up(candidate))
    return Summary(
        count=len(rows),
        mean=geometric_mean([row.speed_up(candidate) for row in rows]),
        worst=worst.speed_up(candidate),
        worst_of=worst.title,
        mean_over_best=geometric_mean([row.speed_up_over_best(candidate) for row in rows]),
    )
