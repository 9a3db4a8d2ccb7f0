"""Products as tables for a terminal of 120 columns, in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from scripts.bench.matmul8_peers import TORCHAO
from scripts.bench.matmul_auto import AutoRow, noise
from scripts.bench.matmul_measure import (
    DENSE,
    DENSE_TRANSPOSED,
    NATIVE,
    Row,
    Summary,
    geometric_mean,
    summary,
)
from scripts.bench.matmul_peers import PEERS, PEERS8
from sparsetrain.bench.json_file import write_json

LEGEND = """\
A [M, K] packed 2:4 times b [K, N]; config: tile, c cluster, g group of tiles, sk stream-K
µs: median of a call right after the same call, ±: distance of the quartiles;
TFLOP/s: 2·M·N·K / µs
dense: µs of what a dense layer runs in cuBLAS, on the unpruned operand; ×: speed-up over it
best: over the faster of dense and the same product stored transposed
error: relative to float64 of the pruned operand, on a sample of 512 rows and columns
peers, × over dense: cslt cuSPARSELt's default, its best algorithm, what its own search finds;
      torch its CUTLASS op, xf xFormers, both without the copy that a transposed result needs
dtype=fp8: dense is bfloat16; error relative to float64 of the same quantized operands; fp8 row and
      tensor: torch._scaled_mm dense, by its scales, × over dense; cslt: without scales of b's
      columns; ao: torchao's CUTLASS op, without the copy that a result stored as (A b) needs
dtype=int8: the same; int8: torch._int_mm dense, which gives int32 without scales, × over dense"""

AUTO_LEGEND = """\
Random products: 64 to 65536 tokens, 256 to 16384 features in multiples of 64, each doubling as
likely, of at most 20 GB and 4e13 FLOP; µs, ±: of what `choose` picks, right after the same call
dense: µs of what a dense layer runs, on the unpruned operand; ×: speed-up over it"""

_HEADS = {
    "cusparselt": "cslt",
    "cusparselt-best": "cslt\nbest",
    "cusparselt-search": "cslt\nown",
    "torch-cutlass": "torch",
    "xformers": "xf",
    TORCHAO: "ao",
    "fp8-row": "fp8\nrow",
    "fp8-tensor": "fp8\ntensor",
    "int8": "int8",
}
_ALL_PEERS = (*PEERS, TORCHAO, *(name for names in PEERS8.values() for name in names))


def product_table(rows: Sequence[Row]) -> Table:
    """The products of one shape; a column for each peer that runs any of them."""
    first = rows[0]
    dtype = str(first.problem.dtype).removeprefix("torch.")
    peers = [name for name in _ALL_PEERS if any(name in row.times for row in rows)]
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    shape = first.shape
    words = f"{shape.tokens} tokens, {shape.features} features, {shape.hidden} hidden, {dtype}"
    shown.title, shown.title_justify = words, "left"
    shown.add_column("product", no_wrap=True)
    for head in ("M", "N", "K"):
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("config", no_wrap=True)
    heads = ("µs", "±", "TFLOP\n/s", "dense", "×", "best", "error")
    for head in (*heads, *(_HEADS[name] for name in peers)):
        shown.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        sizes = map(str, (row.problem.M, row.problem.N, row.problem.K))
        config = _short(row.configs.get(NATIVE, ""))
        shown.add_row(row.name, *sizes, config, *_ours(row), *_peers(row, peers))
    return shown


def product_lines(rows: Iterable[Row]) -> Iterator[str]:
    """What was not timed, once for each reason, and of which products where not of all."""
    rows = list(rows)
    products: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.skipped.items():
            products.setdefault((name, reason), []).append(row.name)
    for (name, reason), whose in products.items():
        of = "" if len(whose) == len(rows) else f" ({', '.join(whose)})"
        yield f"not timed: {name}{of}: {reason}"


def summary_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Geometric mean and worst of each candidate over all products."""
    for name in (NATIVE, *_ALL_PEERS):
        found = summary(rows, name)
        if found is not None:
            yield f"{name}: {_words(found, len(rows))}"
    ratios = [ratio for row in rows if (ratio := row.speed_up_over_8_bits()) is not None]
    if ratios:
        mean, worst = geometric_mean(ratios), min(ratios)
        yield f"{NATIVE} over the fastest dense product in 8 bits: {mean:.3f}× (worst {worst:.2f}×)"


def auto_table(rows: Sequence[AutoRow], count: int = 10) -> Table:
    """The products where the choice is slowest against dense."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    shown.title, shown.title_justify = f"the {min(count, len(rows))} lowest of {len(rows)}", "left"
    for head in ("product", "shape"):
        shown.add_column(head, no_wrap=True)
    for head in ("µs", "±", "dense", "×"):
        shown.add_column(head, justify="right", no_wrap=True)
    for head in ("engine", "why"):
        shown.add_column(head, no_wrap=head == "engine")
    for row in sorted(rows, key=lambda row: row.speed_up)[:count]:
        cells = [f"{row.auto.median:.1f}", f"{100 * row.auto.spread:.0f} %"]
        cells += [f"{row.dense.median:.1f}", f"{row.speed_up:.3f}"]
        shown.add_row(row.name, str(row.shape), *cells, row.engine, row.why)
    return shown


def auto_lines(rows: Sequence[AutoRow]) -> Iterator[str]:
    """The share that is not slower than dense, the worst and the geometric mean."""
    allowed = noise(rows)
    equal = sum(row.speed_up >= 1 - allowed for row in rows)
    faster = sum(row.speed_up >= 1 for row in rows)
    worst = min(rows, key=lambda row: row.speed_up)
    yield (
        f"not slower than dense: {equal} of {len(rows)} ({100 * equal / len(rows):.1f} %), a ratio"
        f" from {1 - allowed:.3f} on counts as equal; {faster} from 1 on"
    )
    yield (
        f"noise: 95 % of the ratios of dense to itself, timed twice in the same rounds, lie within"
        f" {100 * allowed:.1f} % of 1"
    )
    yield f"worst: {worst.speed_up:.3f}× {worst.title}, {worst.engine}: {worst.why}"
    mean = geometric_mean([row.speed_up for row in rows])
    sparse = [row.speed_up for row in rows if row.engine != "dense"]
    words = f"{geometric_mean(sparse):.3f}× over the {len(sparse)} not left dense" if sparse else ""
    yield f"geometric mean: {mean:.3f}×{', ' if words else ''}{words}"


def write_products(
    path: Path, about: dict[str, str], copy: float, rounds: int, rows: Sequence[Row]
) -> None:
    """Write every number. `copy` is in TB/s."""
    found = {name: summary(rows, name) for name in (NATIVE, *_ALL_PEERS)}
    content = {
        "about": about,
        "rounds": rounds,
        "units": {"times": "µs", "rate": "TFLOP/s, dense-equivalent", "moved": "bytes"},
        "copy": copy,
        "summary": {name: asdict(value) for name, value in found.items() if value is not None},
        "products": [_content(row) for row in rows],
    }
    write_json(path, content)


def write_auto(path: Path, about: dict[str, str], rounds: int, rows: Sequence[AutoRow]) -> None:
    """Write every number of random products."""
    content = {
        "about": about,
        "rounds": rounds,
        "units": {"dense": "µs", "again": "µs", "auto": "µs"},
        "noise": noise(rows),
        "not_slower": sum(row.speed_up >= 1 - noise(rows) for row in rows),
        "mean": geometric_mean([row.speed_up for row in rows]),
        "products": [{**_plain(row), "speed_up": row.speed_up} for row in rows],
    }
    write_json(path, content)


def _ours(row: Row) -> list[str]:
    dense = f"{row.times[DENSE].median:.1f}"
    if NATIVE not in row.times:
        return ["–", "", "", dense, "–", "–", ""]
    times = row.times[NATIVE]
    ours = [f"{times.median:.1f}", f"{100 * times.spread:.0f}%", f"{row.rate(NATIVE):.0f}"]
    ratios = [f"{row.speed_up(NATIVE):.2f}", f"{row.speed_up_over_best(NATIVE):.2f}"]
    return [*ours, dense, *ratios, f"{row.errors[NATIVE]:.1e}"]


def _peers(row: Row, peers: list[str]) -> list[str]:
    return [f"{row.speed_up(name):.2f}" if name in row.times else "–" for name in peers]


def _short(config: str) -> str:
    """'256x192 cluster 1x2 group 8 stream-k' as '256x192 c1x2 g8 sk'."""
    short = config.replace("cluster ", "c").replace("group ", "g")
    return short.replace("stream-k", "sk")


def _words(found: Summary, count: int) -> str:
    of = "" if found.count == count else f" of {found.count} of {count}"
    return (
        f"geometric mean{of} {found.mean:.3f}× over dense ({found.mean_over_best:.3f}× over the"
        f" faster way to store it), worst {found.worst:.2f}× {found.worst_of}"
    )


def _content(row: Row) -> dict[str, Any]:
    timed = [name for name in row.times if name not in (DENSE, DENSE_TRANSPOSED)]
    return {
        **_plain(row),
        "rate": {name: row.rate(name) for name in row.times},
        "speed_up": {name: row.speed_up(name) for name in timed},
        "speed_up_over_best": {name: row.speed_up_over_best(name) for name in timed},
    }


def _plain(row: Row | AutoRow) -> dict[str, Any]:
    dtype = str(row.problem.dtype).removeprefix("torch.")
    content = asdict(row)
    return {**content, "problem": {**content["problem"], "dtype": dtype}}
