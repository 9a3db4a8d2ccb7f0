"""`bench step mode=inference`: a forward of a vision transformer, dense and 2:4, in one process.

Models are in bfloat16, in evaluation mode, compiled whole, under torch.inference_mode. All variants
of a model are in memory at once and take turns, on one batch that stays on the device.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.bench.dense_fp8 import make_static_fp8
from sparsetrain.bench.dense_int8 import make_static_int8
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.refusal import first_line
from sparsetrain.bench.rounds import TOTAL, Parts, measure_parts, three_times
from sparsetrain.bench.step_rows import InferenceRow, Result, Vit
from sparsetrain.bench.timing import Times
from sparsetrain.bench.variants import (
    DENSE,
    INFERENCE,
    Forward,
    InferenceVariant,
    Setting,
    compiled,
    engine_counts,
    graphs_compiled,
    many_graphs,
)
from sparsetrain.inference import PackedMlp
from sparsetrain.nn.flops import dense_peak_flops, training_flops_per_image
from sparsetrain.nn.swap import replace_module, with_class

ENERGY_SECONDS = 4.0
"""Of forwards, to read the energy of."""

_FIRST = 3
_SPARSITY = st.Sparsity(INFERENCE, selection=st.Selection("row"))


class InferenceStep:
    """A forward on a batch that stays on the device; `parts` is it alone.

    forward: the model, or what torch.compile made of it. images: bfloat16 [B, 3, H, W].
    out: of the last forward.
    """

    def __init__(self, forward: Forward, images: Tensor) -> None:
        self.forward, self.images = forward, images
        self.out = torch.zeros(())
        self.parts: Parts = {"forward": self.run}

    def run(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            self.out = self.forward(self.images)


@dataclass(frozen=True)
class _Started:
    """A variant after its first forwards; see InferenceRow."""

    step: InferenceStep
    held: int
    error: float
    engines: dict[str, int]
    seconds: float
    graphs: int


def bench_inference(
    vit: Vit,
    make: Callable[[], nn.Module],
    variants: Sequence[InferenceVariant],
    setting: Setting,
    gauges: Gauges,
    say: Callable[[str], None],
) -> Result[InferenceRow]:
    """Build every variant of the model, run its first forwards, then time them in rounds.

    make: a new model, on the default device. say: is told what happens now.
    A variant that does not fit into memory, that PyTorch or the kernels refuse on this machine, or
    whose outputs are not finite, is skipped with the reason. Raises ValueError if that is the dense
    one.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    with setting.device:
        model = make().eval()
        images = torch.randn(vit.batch, 3, vit.pixels, vit.pixels)
    flops = training_flops_per_image(model, images) / 3
    model.bfloat16()
    images = images.bfloat16()
    started: dict[str, _Started] = {}
    skipped: dict[str, str] = {}
    with many_graphs():
        for variant in variants:
            say(f"{vit.name} {variant.name}: first forwards")
            try:
                started[variant.name] = _start(model, variant, images, setting, gauges)
            except (RuntimeError, FloatingPointError, ValueError) as error:  # out of memory too
                skipped[variant.name] = first_line(error)
                gc.collect()
        if DENSE not in started:
            why = skipped.get(DENSE, "it is not among the variants")
            raise ValueError(f"{vit.name}: there is nothing to compare with, {DENSE!r}: {why}")
        del model
        say(f"{vit.name}: timing {', '.join(started)}")
        before = graphs_compiled()
        works = {name: found.step.parts for name, found in started.items()}
        times = measure_parts(works, gauges.clock, setting.rounds, three_times(list(works), DENSE))
        recompiled = graphs_compiled() - before
        rows: list[InferenceRow] = []
        for variant in (variant for variant in variants if variant.name in started):
            say(f"{vit.name} {variant.name}: memory and energy")
            rows.append(_row(variant, started[variant.name], times[variant.name], gauges))
    peak_flops = dense_peak_flops(setting.device)
    return Result(vit, flops, peak_flops, tuple(rows), skipped, recompiled)


def prune_for_inference(model: nn.Module) -> None:
    """Zero what 2:4 masks along rows prune of the layers that are packed; they stay dense."""
    st.prune(model, st.Magnitude(), _SPARSITY, engine="masked")
    st.densify(model, apply_masks=True).eval()


def prepare_inference(model: nn.Module, variant: InferenceVariant) -> dict[str, int]:
    """Make a model the variant, in place; the engines of its packed layers. Weights that are packed
    are pruned before."""
    engines: dict[str, int] = {}
    if variant.packed is not None:
        engines = engine_counts(st.quantize(model, variant.packed))
    if variant.apart:
        for mlp in [module for module in model.modules() if isinstance(module, PackedMlp)]:
            replace_module(model, mlp, with_class(mlp, mlp.dense_class))
    if variant.dense_fp8 is not None:
        make_static_fp8(model, INFERENCE, variant.dense_fp8)
    if variant.dense_int8:
        make_static_int8(model, INFERENCE)
    return engines


def _start(
    model: nn.Module,
    variant: InferenceVariant,
    images: Tensor,
    setting: Setting,
    gauges: Gauges,
) -> _Started:
    """The variant of a copy of `model` after its first forwards. Raises FloatingPointError if their
    outputs are not finite."""
    held, graphs, begun = gauges.held(), graphs_compiled(), time.perf_counter()
    model = copy.deepcopy(model)
    if variant.packed is not None:
        prune_for_inference(model)
    with torch.inference_mode():
        expected = model(images).float()
    engines = prepare_inference(model, variant)
    step = InferenceStep(compiled(model, variant, setting.mode), images)
    for _ in range(_FIRST):
        step.run()
    error = float((step.out.float() - expected).norm() / expected.norm())
    if not math.isfinite(error):
        raise FloatingPointError("its outputs are not finite")
    del expected
    return _Started(
        step,
        held=gauges.held() - held,
        error=error,
        engines=engines,
        seconds=time.perf_counter() - begun,
        graphs=graphs_compiled() - graphs,
    )


def _row(
    variant: InferenceVariant, found: _Started, times: dict[str, Times], gauges: Gauges
) -> InferenceRow:
    step = found.step
    peak = found.held + gauges.peak(step.run)
    joules = gauges.joules_of(step.run, times[TOTAL], ENERGY_SECONDS)
    per_image = None if joules is None else joules / len(step.images)
    facts = found.held, found.error, found.engines, found.seconds, found.graphs
    return InferenceRow(variant, times, peak, per_image, *facts)
