"""`bench`: kernels against the peers and the copy, in one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsetrain import native
from sparsetrain.bench.environment import environment
from sparsetrain.bench.ours import OPS
from sparsetrain.bench.report import LEGEND, formulas, table, write_json
from sparsetrain.bench.sparsify import LARGE, Matrix, bench_matrix, copy_rate
from sparsetrain.bench.timing import cuda_clocks
from sparsetrain.cli.overrides import split_word
from sparsetrain.cli.show import console, relative, show_lines, show_values
from sparsetrain.recipe import nearest

_BENCHMARKS = ("sparsify",)
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


@dataclass(frozen=True)
class Options:
    """What `bench sparsify` was asked for."""

    matrices: tuple[Matrix, ...]
    ops: tuple[str, ...]
    rounds: int
    json: Path | None


def bench(words: list[str]) -> None:
    """Run the benchmark named first with the key=value words after it."""
    name = words[0] if words else ""
    if name not in _BENCHMARKS:
        raise ValueError(f"bench {name!r} is unknown: {nearest(name, _BENCHMARKS)}")
    options = parse(words[1:])
    device = _device()
    about = environment(" ".join(["python -m sparsetrain bench", *words]), _library())
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
        show_lines(tuple(f"not timed: {what}: {why}" for what, why in result.skipped.items()))
        torch.cuda.empty_cache()
    console.print(f"\n{LEGEND}\n", style="dim")
    show_lines(tuple(formulas(results)))
    if options.json is not None:
        write_json(options.json, about, copy, options.rounds, results)
        show_values((("written", str(relative(options.json))),))


def _device() -> torch.device:
    if not torch.cuda.is_available():
        raise ValueError(
            "bench needs a CUDA device and none was found; `python -m sparsetrain doctor` says why"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _library() -> str:
    """Load the kernels; the key they were built under, and for which GPUs."""
    library = native.require()
    if library.path is None:
        raise ValueError(
            f"bench times kernels, and there are none: {library.reason}; {library.fix}"
        )
    archs = ", ".join(f"sm_{arch}" for arch in library.archs)
    return f"{library.path.parent.name}/{library.path.name} for {archs}"


def parse(words: list[str]) -> Options:
    """Read `shapes=` `dtype=` `rounds=` `ops=` `json=`. Raises ValueError naming what is wrong."""
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word!r} is not of the form key=value")
    options = dict(split_word(word) for word in words)
    for key in options:
        if key not in _KEYS:
            raise ValueError(f"{key}= is no option of bench: {nearest(key, _KEYS)}")
    ops = tuple(_list(options.get("ops", ",".join(OPS))))
    for op in ops:
        if op not in OPS:
            raise ValueError(f"ops={op!r} is unknown: {nearest(op, OPS)}")
    rounds = options.get("rounds", "50")
    if not rounds.isdecimal() or int(rounds) < 2:
        raise ValueError(f"rounds={rounds!r}: give a number of at least 2")
    shapes = [_shape(text) for text in _list(options.get("shapes", _SHAPES))]
    json = Path(options["json"]) if options.get("json") else None
    return Options(_matrices(shapes, options.get("dtype")), ops, int(rounds), json)


def _matrices(shapes: list[tuple[int, int]], dtype: str | None) -> tuple[Matrix, ...]:
    """Without a dtype: bfloat16, and weight-sized ones as float32 master weights too."""
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: {nearest(dtype, _DTYPES)}")
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


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.strip("[]").split(",") if word.strip()]
