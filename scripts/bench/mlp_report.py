"""MLPs as tables for a terminal of 120 columns, in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from scripts.bench.mlp_rows import Result
from sparsetrain.bench.bars import Panel
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.rounds import TOTAL
from sparsetrain.bench.step_report import bar, milliseconds

PARTS = ("forward", "backward")

LEGEND = """\
ms, medians, of fc1, activation, fc2 and their backward, gradient of the input included; float32
     parameters, bfloat16 autocast; forward: packing of the 2:4 weights included
total: of whole steps back to back, not the sum of the parts; ±: distance of its quartiles
×: speed-up over dense, compiled; TFLOP/s: of the six dense products in that time; MFU: that over
     what the device can do dense
GiB: of a step at most, above what was there before; J: of a step of the GPU, by NVML's counter
error: of y and all gradients, the worst: from the same in eager mode with masked products, of a
     peer from dense (its masks are its own)"""


def mlp_table(result: Result) -> Table:
    """A row for each candidate of the shape."""
    shape = result.shape
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    words = f"{shape.tokens} tokens, {shape.features} features, {shape.hidden} hidden"
    shown.title, shown.title_justify = words, "left"
    for head in ("candidate", "runs"):
        shown.add_column(head, no_wrap=True)
    for head in (*PARTS, "total", "±", "×", "TFLOP/s", "MFU", "GiB", "J", "error"):
        shown.add_column(head, justify="right", no_wrap=True)
    for row in result.rows:
        total = row.times[TOTAL]
        shown.add_row(
            row.name,
            row.runs,
            *(milliseconds(row.times.get(part)) for part in PARTS),
            milliseconds(total),
            f"{100 * total.spread:.1f} %",
            f"{result.speed_up(row):.3f}",
            f"{result.rate(row):.0f}",
            "–" if (mfu := result.mfu(row)) is None else f"{100 * mfu:.1f} %",
            f"{row.peak / 2**30:.2f}",
            "–" if row.joules is None else f"{row.joules:.2f}",
            f"{row.error:.1e}",
        )
    return shown


def mlp_lines(result: Result) -> Iterator[str]:
    """What was not timed, and what each sparse candidate's layers run on."""
    for name, reason in result.skipped.items():
        yield f"not timed: {name}: {reason}"
    if result.recompiled:
        yield (
            f"not to be trusted: torch.compile made {result.recompiled} graphs while the clock ran"
        )
    for row in result.rows:
        if row.engines:
            engines = ", ".join(f"{count} {engine}" for engine, count in row.engines.items())
            yield f"{row.name}: sparse layers: {engines}"
        yield from (f"  {reason}" for reason in row.reasons)


def write_mlps(
    path: Path, about: dict[str, str], settings: dict[str, str | int], results: Sequence[Result]
) -> None:
    """Write every number. settings: the rounds, steps and mode of the run."""
    content = {
        "about": about,
        **settings,
        "units": {
            "times": "µs",
            "peak": "bytes",
            "joules": "J per step",
            "rate": "TFLOP/s, dense-equivalent",
        },
        "shapes": [_content(result) for result in results],
    }
    write_json(path, content)


def mlp_panels(results: Sequence[Result]) -> list[Panel]:
    """What bars.draw_bars draws of them."""
    return [
        Panel(
            str(result.shape),
            [bar(row.name, row.times, PARTS, result.speed_up(row)) for row in result.rows],
        )
        for result in results
    ]


def _content(result: Result) -> dict[str, Any]:
    candidates = [
        {
            **asdict(row),
            "rate": result.rate(row),
            "mfu": result.mfu(row),
            "speed_up": result.speed_up(row),
        }
        for row in result.rows
    ]
    return {**asdict(result), "rows": candidates}
