"""What writes 8-bit values in a pass that computes something else, against the
passes apart.

    python -m scripts.bench.producers8
    python -m scripts.bench.producers8 shapes=16448x1280x5120 rounds=40 \\
        json=producers8.json

Of each MLP (TOKENSxFEATURESxHIDDEN) its hidden activations, bfloat16 [tokens,
hidden], and the float32 weight of fc1. Apart is the op in 16 bits and
`quantize` or `narrow24` after it; of `quantize_across24` it is `quantize24`,
and `mask24` of the dense form, its transpose and `quantize` of that.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from scripts.bench.command import run
from sparsetrain import ops
from sparsetrain.bench.environment import environment
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.products import Shape
from sparsetrain.bench.products8 import E4M3
from sparsetrain.bench.timing import Run, cuda_clocks, measure
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_options,
    read_path,
    read_rounds,
    read_shapes,
)
from sparsetrain.cli.console import console
from sparsetrain.ops.squared_relu24_quantize import in_one_pass

_SHAPES = (Shape(50432, 768, 3072), Shape(25216, 1024, 4096), Shape(16448, 1280, 5120))
"""ViT-B with 256 images, ViT-L with 128, ViT-H with 64."""


def main(words: list[str]) -> None:
    """Time every op and its passes apart at each shape, in turn."""
    options = read_options(words, ("shapes", "rounds", "json"))
    shapes, rounds = read_shapes(options, _SHAPES), read_rounds(options, 30)
    file, device = read_path("json", options), cuda_device()
    about = environment(" ".join(["python -m scripts.bench.producers8", *words]), library_words())
    clocks = cuda_clocks()
    table, rows = Table("shape", "op", "µs", "apart", "gain", box=None), []
    for shape in shapes:
        pairs = producers(shape, device)
        runs = {f"{name}, {way}": pair[way] for name, pair in pairs.items() for way in pair}
        times = measure(runs, clocks.warm, rounds)
        for name in pairs:
            one, apart = times[f"{name}, one"], times[f"{name}, apart"]
            row: dict[str, Any] = {"op": name, "one": asdict(one), "apart": asdict(apart)}
            rows.append({"shape": str(shape), **row})
            words_of = f"{one.median:.1f}", f"{apart.median:.1f}"
            table.add_row(str(shape), name, *words_of, f"{apart.median / one.median:.2f}×")
        torch.cuda.empty_cache()
    console.print(table)
    if file is not None:
        write_json(file, {"about": about, "rounds": rounds, "rows": rows})


def producers(shape: Shape, device: torch.device) -> dict[str, dict[str, Run]]:
    """By op: `one` call of it, and the passes `apart`; results of both are the same."""

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=device)

    z, grad = (normal(shape.tokens, shape.hidden).bfloat16() for _ in range(2))
    w = normal(shape.hidden, shape.features)
    mask = ops.select24(w, "transposable")
    packed = ops.squared_relu24(z)
    _, meta, _, values_t, meta_t = ops.squared_relu24_quantize(z, "transposable", E4M3)

    def relu_apart() -> tuple[Tensor, ...]:
        values, meta, *columns = ops.squared_relu24(z)
        return *ops.narrow24(values, meta, E4M3), *columns

    def relu_gradient_apart() -> tuple[Tensor, ...]:
        values, values_t, sums = ops.squared_relu24_backward(grad, *packed, "transposable")
        values, _, scales = ops.narrow24(values, packed[1], E4M3)
        return values, scales, values_t, sums

    def gelu_gradient_apart() -> tuple[Tensor, ...]:
        given = ops.gelu_backward(grad, z)
        return *given, *ops.quantize(given[0], E4M3)

    def across_apart() -> tuple[Tensor, ...]:
        dense = ops.mask24(w, mask, dtype=torch.bfloat16)
        return *ops.quantize24(w, mask, E4M3), *ops.quantize(dense.T, E4M3)

    found = {
        "gelu_quantize": (
            lambda: ops.gelu_quantize(z, "none", E4M3),
            lambda: ops.quantize(ops.gelu(z), E4M3),
        ),
        "gelu_quantize, int8": (
            lambda: ops.gelu_quantize(z, "none", torch.int8),
            lambda: ops.quantize(ops.gelu(z), torch.int8),
        ),
        "gelu_backward_quantize": (
            lambda: ops.gelu_backward_quantize(grad, z, "none", E4M3),
            gelu_gradient_apart,
        ),
        "quantize_across24": (
            lambda: ops.quantize_across24(w, mask, E4M3, False),
            across_apart,
        ),
    }
    if in_one_pass(z, "transposable", E4M3):
        found["squared_relu24_quantize"] = (
            lambda: ops.squared_relu24_quantize(z, "transposable", E4M3),
            relu_apart,
        )
        found["squared_relu24_backward_quantize"] = (
            lambda: ops.squared_relu24_backward_quantize(grad, meta, values_t, meta_t, E4M3),
            relu_gradient_apart,
        )
    return {name: {"one": one, "apart": apart} for name, (one, apart) in found.items()}


if __name__ == "__main__":
    run(main, __doc__)
