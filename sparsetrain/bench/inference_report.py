"""Forwards in words; tables and JSON are those of training steps (step_report.py)."""

from __future__ import annotations

from collections.abc import Iterator

from sparsetrain.bench.step_report import told_first
from sparsetrain.bench.step_rows import InferenceRow, Result

LEGEND = """\
ms, medians: of forwards back to back, without gradients, model and images in bfloat16, everything
     compiled; ±: distance of its quartiles
×: speed-up over dense
GiB: at most, with the weights; of dense: as a share of dense's
J/img: of the GPU, by NVML's counter, over seconds of forwards
MFU: FLOPs of the dense model over those the device could do dense in bfloat16
error: relative distance of the outputs from those of the same weights, with their zeros, in
     bfloat16, not compiled"""


def inference_lines(result: Result[InferenceRow]) -> Iterator[str]:
    """What was not timed, on what each variant runs, and how exact it is."""
    yield from told_first(result)
    for row in result.rows:
        engines = ", ".join(f"{count} {engine}" for engine, count in row.engines.items())
        yield (
            f"{row.variant.name}: {f'packed layers: {engines}; ' if engines else ''}error"
            f" {row.error:.4f}; weights {row.held / 2**30:.2f} GiB; first forwards"
            f" {row.seconds:.0f} s, {row.graphs} compiled graphs"
        )
