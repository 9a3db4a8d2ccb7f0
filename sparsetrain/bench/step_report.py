"""Training steps as tables for a terminal of 120 columns, in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from sparsetrain.bench.bars import Bar, Panel
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.rounds import TOTAL
from sparsetrain.bench.step_rows import R, Result, TrainRow
from sparsetrain.bench.timing import Times

PARTS = ("forward", "backward", "optimizer")

LEGEND = """\
ms, medians: forward: model and cross-entropy, packing of every 2:4 weight under its mask included,
     which was chosen once, before; optimizer: fused AdamW; step: of whole steps back to back, not
     the sum; ±: distance of its quartiles
×: speed-up over dense, which is compiled and in bfloat16 autocast as all of them are
GiB: at most, with parameters and AdamW's state; of dense: as a share of dense's
J/img: of the GPU, by NVML's counter, over seconds of steps
MFU: FLOPs of the dense model over those the device could do dense"""


def step_table(result: Result[R], parts: Sequence[str] = PARTS, whole: str = "step") -> Table:
    """A row for each variant of the model. parts: columns before the whole's."""
    vit = result.vit
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    words = f"{vit.name} ({vit.timm}), batch {vit.batch}, {vit.pixels} × {vit.pixels} pixels"
    shown.title, shown.title_justify = words, "left"
    shown.add_column("variant", no_wrap=True)
    heads = (*parts, whole, "±", "images/s", "×", "GiB", "of dense", "J/img", "MFU")
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for row in result.rows:
        total = row.times[TOTAL]
        shown.add_row(
            row.variant.name,
            *(milliseconds(row.times.get(part)) for part in parts),
            milliseconds(total),
            f"{100 * total.spread:.1f} %",
            f"{result.images_per_s(row):.0f}",
            f"{result.speed_up(row):.3f}",
            f"{row.peak / 2**30:.1f}",
            f"{100 * row.peak / result.dense.peak:.0f} %" if result.dense.peak else "–",
            "–" if row.joules is None else f"{row.joules:.3f}",
            "–" if (mfu := result.mfu(row)) is None else f"{100 * mfu:.1f} %",
        )
    return shown


def told_first(result: Result[R]) -> Iterator[str]:
    """What was not timed, and whether the times are to be trusted."""
    for name, reason in result.skipped.items():
        yield f"not timed: {name}: {reason}"
    if result.recompiled:
        yield (
            f"not to be trusted: torch.compile made {result.recompiled} graphs while the clock ran"
        )


def step_lines(result: Result[TrainRow]) -> Iterator[str]:
    """What was not timed, what does not run native, and what each variant's first steps said."""
    yield from told_first(result)
    for row in result.rows:
        start = row.start
        engines = ", ".join(f"{count} {engine}" for engine, count in start.engines.items())
        compiled = f", {start.graphs} compiled graphs" if start.graphs else ""
        yield (
            f"{row.variant.name}: {f'sparse layers: {engines}; ' if engines else ''}loss"
            f" {start.loss:.3f} to {row.last_loss:.3f}; first steps {start.seconds:.0f} s{compiled}"
        )
        yield from (f"  {reason}" for reason in start.reasons)
    yield from _over_alone(result)


def _over_alone(result: Result[TrainRow]) -> Iterator[str]:
    """What × is over the dense model as it was while there was no other in the process."""
    if (alone := result.alone) is None:
        return
    others = [row for row in result.rows if row is not result.dense]
    gains = [f"{r.variant.name} {alone.median / r.times[TOTAL].median:.3f}×" for r in others]
    over = f"; over that {', '.join(gains)}" if gains else ""
    yield f"dense before another model was made: {milliseconds(alone)} ms a step{over}"


def write_steps(
    path: Path, about: dict[str, str], settings: dict[str, str | int], results: Sequence[Result[R]]
) -> None:
    """Write every number. settings: mode, rounds, steps and compile of the run."""
    content = {
        "about": about,
        **settings,
        "units": {
            "times": "µs",
            "peak": "bytes",
            "held": "bytes",
            "joules": "J per image",
            "flops": "FLOP per image, of all that is timed",
        },
        "models": [_content(result) for result in results],
    }
    write_json(path, content)


def step_panels(results: Sequence[Result[R]], parts: Sequence[str] = PARTS) -> list[Panel]:
    """What bars.draw_bars draws of them."""
    return [
        Panel(
            f"{result.vit.name}, batch {result.vit.batch}",
            [bar(row.variant.name, row.times, parts, result.speed_up(row)) for row in result.rows],
        )
        for result in results
    ]


def bar(name: str, times: dict[str, Times], parts: Sequence[str], speed_up: float) -> Bar:
    """The parts there are, in ms."""
    found = {part: times[part].median / 1000 for part in parts if part in times}
    return Bar(name, found, times[TOTAL].median / 1000, speed_up)


def milliseconds(times: Times | None) -> str:
    """The median, '–' without one."""
    return "–" if times is None else f"{times.median / 1000:.2f}"


def _content(result: Result[R]) -> dict[str, Any]:
    return {
        **asdict(result.vit),
        "flops": result.flops,
        "peak_flops": result.peak_flops,
        "skipped": result.skipped,
        "recompiled": result.recompiled,
        "alone": None if result.alone is None else asdict(result.alone),
        "variants": [_row_content(result, row) for row in result.rows],
    }


def _row_content(result: Result[R], row: R) -> dict[str, Any]:
    content = asdict(row)
    return {
        **content,
        "variant": row.variant.name,
        "what": row.variant.what,
        "images_per_s": result.images_per_s(row),
        "speed_up": result.speed_up(row),
        "mfu": result.mfu(row),
    }
