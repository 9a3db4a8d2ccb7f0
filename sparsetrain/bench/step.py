"""`bench step`: a whole training step of a vision transformer, dense and 2:4, in one process.

All variants of a model are in memory at once and take turns. The images are one batch that stays
on the device: loading data is not in it. The dense model is timed once more before, while it is the
only one: on an H200 it is faster then (docs/performance.md, "`fit`").
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.refusal import first_line
from sparsetrain.bench.rounds import TOTAL, measure_parts, three_times
from sparsetrain.bench.step_rows import Result, Start, TrainRow, Vit
from sparsetrain.bench.timing import Times
from sparsetrain.bench.torchao_fp8 import REFUSALS
from sparsetrain.bench.train_step import TrainStep
from sparsetrain.bench.variants import (
    DENSE,
    Setting,
    Variant,
    compiled,
    engine_counts,
    graphs_compiled,
    layer_words,
    many_graphs,
    prepare,
)
from sparsetrain.nn.flops import dense_peak_flops, training_flops_per_image

_SKIPPED = (torch.OutOfMemoryError, FloatingPointError, ValueError)

UNTIMED, STEPS = 1, 4
"""Steps of a visit before the clock runs, and those that give the total."""

ENERGY_SECONDS = 4.0
"""Of steps, to read the energy of."""

_FIRST_STEPS = 3


def bench_model(
    vit: Vit,
    make: Callable[[], nn.Module],
    variants: Sequence[Variant],
    setting: Setting,
    gauges: Gauges,
    say: Callable[[str], None],
) -> Result[TrainRow]:
    """Build every variant of the model, run its first steps, then time them in rounds.

    make: a new model, on the default device. say: is told what happens now.
    A variant that does not fit into memory, that this machine has no kernels for, that torchao
    refuses, or whose loss is not finite, is skipped with the reason. Raises ValueError if that is
    the dense one, or it is missing.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    with setting.device:
        model = make()
        images = torch.randn(vit.batch, 3, vit.pixels, vit.pixels)
        labels = torch.randint(vit.classes, (vit.batch,))
    flops = training_flops_per_image(model, images)
    steps: dict[str, TrainStep] = {}
    starts: dict[str, Start] = {}
    skipped: dict[str, str] = {}
    alone: Times | None = None
    with many_graphs():
        for variant in sorted(variants, key=_when):
            say(f"{vit.name} {variant.name}: first steps")
            refusals = REFUSALS if variant.torchao_fp8 else ()
            try:
                found = _start(model, variant, (images, labels), setting, gauges)
            except (*_SKIPPED, *refusals) as error:
                skipped[variant.name] = first_line(error)
                gc.collect()
            else:
                steps[variant.name], starts[variant.name] = found
                if variant.name == DENSE:
                    works, order = {DENSE: found[0].parts}, three_times([DENSE], DENSE)
                    alone = measure_parts(works, gauges.clock, setting.rounds, order)[DENSE][TOTAL]
        if DENSE not in steps:
            why = skipped.get(DENSE, "it is not among the variants")
            raise ValueError(f"{vit.name}: there is nothing to compare with, {DENSE!r}: {why}")
        del model
        say(f"{vit.name}: timing {', '.join(steps)}")
        before = graphs_compiled()
        works = {name: step.parts for name, step in steps.items()}
        times = measure_parts(works, gauges.clock, setting.rounds, three_times(list(works), DENSE))
        recompiled = graphs_compiled() - before
        rows: list[TrainRow] = []
        for variant in (variant for variant in variants if variant.name in steps):
            name = variant.name
            say(f"{vit.name} {name}: memory and energy")
            rows.append(_row(variant, steps[name], starts[name], times[name], gauges))
    peak_flops = dense_peak_flops(setting.device)
    return Result(vit, flops, peak_flops, tuple(rows), skipped, recompiled, alone)


def _when(variant: Variant) -> int:
    """Sort key: dense is made first. torchao is made last: it changes how Inductor compiles."""
    return 0 if variant.name == DENSE else 2 if variant.torchao_fp8 else 1


def _start(
    model: nn.Module,
    variant: Variant,
    batch: tuple[Tensor, Tensor],
    setting: Setting,
    gauges: Gauges,
) -> tuple[TrainStep, Start]:
    """The variant of a copy of `model` after its first steps. Raises FloatingPointError if their
    loss is not finite."""
    held, graphs, begun = gauges.held(), graphs_compiled(), time.perf_counter()
    model = copy.deepcopy(model)
    report = prepare(model, variant, setting.engine, batch[0])
    forward = compiled(model, variant, setting.mode)
    step = TrainStep(model, forward, *batch)
    losses: list[float] = []
    for _ in range(_FIRST_STEPS):
        step.run()
        losses.append(step.loss.item())
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError(f"the loss of its first steps is {losses}")
    start = Start(
        held=gauges.held() - held,
        loss=losses[0],
        engines={} if report is None else engine_counts(report),
        reasons=() if report is None else layer_words(report),
        seconds=time.perf_counter() - begun,
        graphs=graphs_compiled() - graphs,
    )
    return step, start


def _row(
    variant: Variant, step: TrainStep, start: Start, times: dict[str, Times], gauges: Gauges
) -> TrainRow:
    peak = start.held + gauges.peak(step.run)
    joules = gauges.joules_of(step.run, times[TOTAL], ENERGY_SECONDS)
    per_image = None if joules is None else joules / len(step.images)
    return TrainRow(variant, times, peak, per_image, start, step.loss.item())
