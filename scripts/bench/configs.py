"""Times of every config of the native products, and of the one that csrc chooses.

    python -m scripts.bench.configs
    python -m scripts.bench.configs dtype=fp8 products=w24-forward rounds=7 \\
        json=configs.json

To such times the constants of csrc/product/choose.cpp are fitted; after a
change of the kernels this says how far its choices are from the best config.
shapes=, products= and dtype= as in scripts.bench.matmul; rounds= calls that
count. Configs are tiles, clusters and stream-K, with tiles near in time in
groups of 8; a table that `tune` measured is left aside.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from scripts.bench.command import run
from scripts.bench.matmul import NAMES
from sparsetrain.bench.environment import environment
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.products import SHAPES, Product, make_product
from sparsetrain.bench.products8 import E4M3, PRODUCTS8, Quantized, quantized
from sparsetrain.bench.timing import Clock, Run, Times, cuda_clocks, measure
from sparsetrain.bench.tune import Install, Native, first_configs
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_dtype,
    read_names,
    read_options,
    read_path,
    read_rounds,
    read_shapes,
)
from sparsetrain.cli.console import console
from sparsetrain.products import Config, Problem, install, tile_names

CHOSEN = "chosen"


@dataclass(frozen=True)
class Found:
    """Of one product: µs of each config, by its words, and of what csrc chooses."""

    product: str
    shape: str
    problem: Problem
    times: dict[str, Times]

    @property
    def best(self) -> str:
        """The words of the fastest config."""
        configs = (name for name in self.times if name != CHOSEN)
        return min(configs, key=lambda name: self.times[name].median)

    @property
    def slower(self) -> float:
        """The choice's time over that of the fastest config."""
        return self.times[CHOSEN].median / self.times[self.best].median

    def best_of(self, tile: str) -> float:
        """µs of the fastest config of a tile."""
        return min(t.median for name, t in self.times.items() if name.startswith(f"{tile} "))


def words_of(config: Config) -> str:
    """'256x192 c1x2 sk': the tile, the cluster, whether it is stream-K."""
    cluster = f"c{config.cluster_m}x{config.cluster_n}"
    return f"{config.tile} {cluster}{' sk' if config.stream_k else ''}"


def time_configs(
    product: Product | Quantized, tiles: list[str], install: Install, clock: Clock, rounds: int
) -> dict[str, Times]:
    """µs of every config of these tiles, and of what is chosen without a table."""
    configs = {words_of(config): config for config in first_configs(product.problem, tiles)}
    runs: dict[str, Run] = {
        name: Native(product, config, install) for name, config in configs.items()
    }

    def timed(run: Run) -> float:
        if isinstance(run, Native):
            run.prepare()
        else:
            install({})
        return clock(run)

    times = measure({**runs, CHOSEN: product.native}, timed, rounds)
    install({})
    return times


def main(words: list[str]) -> None:
    options = read_options(words, ("shapes", "products", "dtype", "rounds", "json"))
    dtype = read_dtype(options, {"fp8": E4M3, "int8": torch.int8})
    narrow = dtype.itemsize == 1
    known = {word: name for word, name in NAMES.items() if not narrow or name in PRODUCTS8}
    names = [known[word] for word in read_names("products", options, tuple(known))]
    shapes = read_shapes(options, SHAPES)
    rounds, file = read_rounds(options, 7), read_path("json", options)
    device = cuda_device()
    about = environment(" ".join(["python -m scripts.bench.configs", *words]), library_words())
    clocks, found = cuda_clocks(), []
    for shape in shapes:
        for name in names:
            wide = make_product(name, shape, torch.bfloat16 if narrow else dtype, device)
            product = quantized(wide, dtype) if narrow else wide
            times = time_configs(product, tile_names(), install, clocks.warm, rounds)
            found.append(Found(name, str(shape), product.problem, times))
    console.print(table(found))
    console.print(summary(found))
    if file is not None:
        write(file, about, rounds, found)


def table(found: list[Found]) -> Table:
    """A row for each product: µs of the best config of each tile, and the choice."""
    tiles = sorted({name.split()[0] for of in found for name in of.times if name != CHOSEN})
    out = Table("µs, medians", *tiles, "best", CHOSEN, "slower", box=None)
    for of in found:
        best = [f"{of.best_of(tile):.0f}" for tile in tiles]
        chosen = f"{of.times[CHOSEN].median:.0f}"
        out.add_row(f"{of.product} {of.shape}", *best, of.best, chosen, f"{of.slower:.3f}×")
    return out


def summary(found: list[Found]) -> str:
    """How much slower the choice is than the best config: the geometric mean, and the worst."""
    mean = math.exp(sum(math.log(of.slower) for of in found) / len(found))
    worst = max(found, key=lambda of: of.slower)
    return (
        f"the choice is {mean - 1:.1%} slower than the best config in the mean,"
        f" {worst.slower - 1:.1%} at worst: {worst.product} {worst.shape}"
    )


def write(file: Path, about: dict[str, str], rounds: int, found: list[Found]) -> None:
    products = [
        {
            "product": of.product,
            "shape": of.shape,
            "sizes": {"M": of.problem.M, "N": of.problem.N, "K": of.problem.K},
            "us": {name: asdict(times) for name, times in of.times.items()},
        }
        for of in found
    ]
    write_json(file, {"about": about, "rounds": rounds, "products": products})


if __name__ == "__main__":
    run(main, __doc__)
