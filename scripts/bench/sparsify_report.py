"""Results of a benchmark as tables for a terminal of 100 columns and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from scripts.bench.quality import Quality
from scripts.bench.sparsify_measure import Result, Row
from sparsetrain.bench.json_file import write_json

LEGEND = """\
µs: median of one call, ±: distance of the quartiles; TB/s: of the bytes that must be moved
copy: TB/s over those of copying 1 GiB in this run; ×: time over that of x.clone(), same matrix
torch: speed-up over the torch op that does the same job; energy: kept x² of all x²
best: kept |x| (x² for l2) of what the best of the 90 masks keeps, in float64; worst: in one tile;
      a row mask is free of the columns and may keep more
cold: L2 flushed; warm: run just before; graph: one of 20 calls in a CUDA graph, warm"""


def table(result: Result) -> Table:
    """The rows of a matrix: bandwidth of a large one, cold and warm times of a weight."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    shown.title, shown.title_justify = str(result.matrix), "left"
    shown.add_column("op", no_wrap=True)
    large = result.matrix.large
    heads = ("B/elem", "µs", "±", "TB/s", "copy") if large else ("cold", "±", "warm", "graph")
    ratios = ("×clone",) if large else ("×cold", "×warm", "×graph")
    for head in (*heads, *ratios, "torch", "energy", "best", "worst"):
        shown.add_column(head, justify="right", no_wrap=True)
    for row in result.rows:
        speed_up = "" if row.speed_up is None else f"{row.speed_up['cold']:.2f}×"
        cells = _large(row) if large else _weight(row)
        shown.add_row(row.name, *cells, speed_up, *_kept(row))
    return shown


def formulas(results: Iterable[Result]) -> list[str]:
    """The bytes per element that are counted, for each dtype, with whose they are."""
    names: dict[str, dict[str, None]] = {}
    for result in results:
        dtype = str(result.matrix).split(" ", 1)[1]
        for row in result.rows:
            names.setdefault(f"{dtype}: {row.formula}", {})[row.name] = None
    return [f"{line}  ({', '.join(whose)})" for line, whose in names.items()]


def write_matrices(
    path: Path, about: dict[str, str], copy: float, rounds: int, results: Sequence[Result]
) -> None:
    """Write every number, atomically. `copy` is in TB/s."""
    content = {
        "about": about,
        "rounds": rounds,
        "units": {"times": "µs", "rate": "TB/s"},
        "copy": copy,
        "matrices": [
            {
                "matrix": str(result.matrix),
                "rows": result.matrix.rows,
                "columns": result.matrix.columns,
                "large": result.matrix.large,
                "candidates": [asdict(row) for row in result.rows],
                "skipped": result.skipped,
            }
            for result in results
        ],
    }
    write_json(path, content)


def _large(row: Row) -> list[str]:
    cold = row.times["cold"]
    times = [f"{row.bytes_per_element:g}", f"{cold.median:.1f}", f"{100 * cold.spread:.0f} %"]
    rates = [f"{row.rate['cold']:.2f}", f"{100 * row.of_copy['cold']:.0f} %"]
    return [*times, *rates, f"{row.to_clone['cold']:.2f}"]


def _weight(row: Row) -> list[str]:
    states = ("cold", "warm", "graph")
    cold, *others = (f"{row.times[s].median:.1f}" if s in row.times else "–" for s in states)
    ratios = [f"{row.to_clone[s]:.2f}" if s in row.to_clone else "–" for s in states]
    return [cold, f"{100 * row.times['cold'].spread:.0f} %", *others, *ratios]


def _kept(row: Row) -> list[str]:
    kept: Quality | None = row.quality
    if kept is None:
        return ["", "", ""]
    best = kept.sum_of_best, kept.worst_sum
    if row.name.endswith("l2"):
        best = kept.energy_of_best, kept.worst_energy
    return [f"{kept.energy:.4f}", f"{best[0]:.6f}", f"{best[1]:.4f}"]
