"""Could gradients of 2:4 MLP weights pay in fp8? Their product, and what its
operands cost.

    python -m scripts.bench.grad_weight8
    python -m scripts.bench.grad_weight8 shapes=25216x1024x4096 rounds=40 \\
        json=grad_weight8.json

dw1 = dz24.T x and dw2 = dy.T h24 contract along tokens, which 8-bit products
read K-major:

    bf16         the product as a layer calls it, to float32
    fp8          the same with both operands in e4m3, a scale for each of their
                 features, so that scales are factors of the result
    narrow24     dz24.T or h24.T, packed along tokens in bfloat16, in 8 bits
    quantize     x.T or dy.T in 8 bits by the op, which copies the transpose
                 first
    inductor     the same by torch.compile of the definition
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from scripts.bench.command import run
from sparsetrain import ops
from sparsetrain.bench.environment import environment
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.products import Product, Shape, make_product
from sparsetrain.bench.products8 import E4M3, Quantized, quantized
from sparsetrain.bench.timing import Run, Times, cuda_clocks, measure
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_options,
    read_path,
    read_rounds,
    read_shapes,
)
from sparsetrain.cli.console import console
from sparsetrain.products import NATIVE
from sparsetrain.reference.quantize import quantize as definition

_SHAPES = (Shape(25216, 1024, 4096), Shape(16448, 1280, 5120))
"""ViT-L/16 with 128 images, ViT-H/14 with 64."""

GRADIENTS = {"dw1": "dz24 dW", "dw2": "act24 dW"}
"""Names of bench.products."""


def main(words: list[str]) -> None:
    """Time both gradients at each shape, all parts in turn."""
    options = read_options(words, ("shapes", "rounds", "json"))
    shapes, rounds = read_shapes(options, _SHAPES), read_rounds(options, 30)
    file, device = read_path("json", options), cuda_device()
    about = environment(" ".join(["python -m scripts.bench.grad_weight8", *words]), library_words())
    clocks, found = cuda_clocks(), []
    for shape in shapes:
        for name in GRADIENTS:
            torch.compiler.reset()
            product = make_product(GRADIENTS[name], shape, torch.bfloat16, device)
            narrow = quantized(product)
            times = measure(parts(product, narrow), clocks.warm, rounds)
            found.append(result(name, narrow, times))
    console.print(table(found))
    if file is not None:
        write(file, about, rounds, found)


def parts(product: Product, narrow: Quantized) -> dict[str, Run]:
    """What is timed, by name; each gives its result."""
    transposed = product.problem.transpose_out
    wide = product.values, product.meta, product.b, None, transposed, torch.float32
    given = narrow.values, narrow.meta, narrow.scales, narrow.b.T, narrow.scales_b.T
    in_graph = torch.compile(lambda b: definition(b.T.contiguous(), E4M3, "row", False))
    return {
        "bf16": lambda: NATIVE.mm(*wide),
        "fp8": lambda: ops.scaled_matmul24(*given, None, transposed, torch.float32),
        "narrow24": lambda: ops.narrow24(product.values, product.meta, E4M3),
        "quantize": lambda: ops.quantize(product.b.T, E4M3),
        "inductor": lambda: in_graph(product.b),
    }


def result(name: str, narrow: Quantized, times: dict[str, Times]) -> dict[str, Any]:
    """Of one gradient: its times, what fp8 takes in all with the faster way to make b, what that
    saves, and the error of the product against float64 of the quantized operands."""
    medians = {part: time.median for part, time in times.items()}
    operands = medians["narrow24"] + min(medians["quantize"], medians["inductor"])
    return {
        "gradient": name,
        "shape": asdict(narrow.wide.shape),
        "times": {part: asdict(time) for part, time in times.items()},
        "operands": operands,
        "saved": medians["bf16"] - medians["fp8"] - operands,
        "error": narrow.error(narrow.native()),
    }


def table(found: list[dict[str, Any]]) -> Table:
    """A row for each gradient, µs."""
    columns = [*found[0]["times"], "operands", "saved", "error"]
    out = Table("µs, medians", *columns, box=None)
    for row in found:
        medians = [f"{time['median']:.0f}" for time in row["times"].values()]
        last = [f"{row['operands']:.0f}", f"{row['saved']:.0f}", f"{row['error']:.1e}"]
        shape = "x".join(map(str, row["shape"].values()))
        out.add_row(f"{row['gradient']} {shape}", *medians, *last)
    return out


def write(file: Path, about: dict[str, str], rounds: int, found: list[dict[str, Any]]) -> None:
    write_json(file, {"about": about, "rounds": rounds, "gradients": found})


if __name__ == "__main__":
    run(main, __doc__)
