"""Kernels that make a matrix 2:4 against what PyTorch and xFormers have, and
against a copy:

  python -m scripts.bench.sparsify
  python -m scripts.bench.sparsify json=sparsify.json
  python -m scripts.bench.sparsify shapes=25216x4096,3072x768 \\
      dtype=float16 rounds=100
  python -m scripts.bench.sparsify ops=sparsify24,mvue24

shapes= ROWSxCOLUMNS with commas; dtype= bfloat16, float16 or float32 (packed as
bfloat16), without it bfloat16 and, for weight-sized matrices, float32 too;
rounds= calls of each that count; json= the file for every number. Each op is
held against its reference on the CPU before it is timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.bench.command import run
from scripts.bench.ours import OPS
from scripts.bench.sparsify_measure import LARGE, Matrix, bench_matrix, copy_rate
from scripts.bench.sparsify_report import LEGEND, formulas, table, write_matrices
from sparsetrain.bench.environment import environment
from sparsetrain.bench.timing import cuda_clocks
from sparsetrain.cli.bench_words import (
    check_name,
    cuda_device,
    library_words,
    read_names,
    read_options,
    read_path,
    read_rounds,
    split_list,
)
from sparsetrain.cli.console import console, print_lines, relative, show_values

_KEYS = ("shapes", "dtype", "rounds", "ops", "json")
_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_SHAPES = (
    "25216x4096,50432x3072,32768x8192,"  # activations of ViT-L, ViT-B and a large MLP
    "3072x768,4096x1024,5120x1280,14336x4096"  # weights
)
_ROUNDS = 50


@dataclass(frozen=True)
class Options:
    """What it was asked for."""

    matrices: tuple[Matrix, ...]
    ops: tuple[str, ...]
    rounds: int
    json: Path | None


def main(words: list[str]) -> None:
    """Run it with the key=value words."""
    options = parse(words)
    device = cuda_device()
    about = environment(" ".join(["python -m scripts.bench.sparsify", *words]), library_words())
    show_values(tuple(about.items()))
    clocks = cuda_clocks()
    copy = copy_rate(device, clocks.cold, options.rounds)
    show_values((("copy", f"{copy:.2f} TB/s of 1 GiB read and 1 GiB written"),))
    results = []
    for matrix in options.matrices:
        with console.status(f"timing {matrix}"):
            arguments = options.ops, device, clocks, options.rounds, copy
            result = bench_matrix(matrix, *arguments)
        results.append(result)
        console.print()
        console.print(table(result))
        print_lines(tuple(f"not timed: {what}: {why}" for what, why in result.skipped.items()))
        torch.cuda.empty_cache()
    console.print(f"\n{LEGEND}\n", style="dim")
    print_lines(tuple(formulas(results)))
    if options.json is not None:
        write_matrices(options.json, about, copy, options.rounds, results)
        show_values((("written", str(relative(options.json))),))


def parse(words: list[str]) -> Options:
    """Read `shapes=` `dtype=` `rounds=` `ops=` `json=`. Raises ValueError naming what is wrong."""
    options = read_options(words, _KEYS)
    ops = read_names("ops", options, OPS)
    rounds = read_rounds(options, _ROUNDS)
    shapes = [_shape(text) for text in split_list(options.get("shapes", _SHAPES))]
    matrices = _matrices(shapes, options.get("dtype"))
    return Options(matrices, ops, rounds, read_path("json", options))


def _matrices(shapes: list[tuple[int, int]], dtype: str | None) -> tuple[Matrix, ...]:
    """Without a dtype: bfloat16, and weight-sized ones as float32 master weights too."""
    if dtype is not None:
        check_name("dtype", dtype, tuple(_DTYPES))
    first = torch.bfloat16 if dtype is None else _DTYPES[dtype]
    matrices = [Matrix(*shape, first) for shape in shapes]
    if dtype is None:
        weights = [shape for shape in shapes if math.prod(shape) < LARGE]
        matrices += [Matrix(*shape, torch.float32) for shape in weights]
    return tuple(matrices)


def _shape(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) >= 4 and int(columns) >= 4):
        raise ValueError(f"shapes={text!r}: give ROWSxCOLUMNS, as in 25216x4096, 4 or more each")
    if int(columns) % 4 != 0:
        raise ValueError(f"shapes={text!r}: {columns} columns are not a multiple of 4")
    return int(rows), int(columns)


if __name__ == "__main__":
    run(main, __doc__)
