"""An MLP forward and backward, dense, 2:4 and the peers', taking turns."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.bench.mlp_peers import REFUSALS, make_peer
from scripts.bench.mlp_rows import Result, Row
from scripts.bench.mlp_step import Block, MlpStep
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.products import Shape
from sparsetrain.bench.refusal import first_line
from sparsetrain.bench.rounds import TOTAL, measure_parts, three_times
from sparsetrain.bench.timing import Times
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
from sparsetrain.nn.flops import dense_peak_flops

SHAPES = (
    Shape(50432, 768, 3072),  # ViT-B/16, 256 images
    Shape(25216, 1024, 4096),  # ViT-L/16, 128
    Shape(16448, 1280, 5120),  # ViT-H/14, 64
)

UNTIMED, STEPS = 2, 10
"""Steps of a visit before the clock runs, and those that give the total."""

ENERGY_SECONDS = 2.0
"""Of steps, to read the energy of."""

ERROR = 0.05
"""How far a result may be from the same model in eager mode with masked products: the norm of the
difference over the norm. Both are bfloat16."""

ERROR_OF_CHOICE = 0.25
"""The same where the forward chooses masks: a rounding of z may change what is kept."""

ERROR_OF_PEER = 1.0
"""A peer's from the dense MLP with its activation: its masks are its own. Greedy masks on both
random weights are at 0.7, a result of the same size that has nothing to do with it at 1.4."""


@dataclass(frozen=True)
class _Ready:
    step: MlpStep
    runs: str
    error: float
    engines: dict[str, int]
    reasons: tuple[str, ...] = ()


def bench_shape(
    shape: Shape,
    variants: Sequence[Variant],
    peers: Sequence[str],
    setting: Setting,
    gauges: Gauges,
    say: Callable[[str], None],
) -> Result:
    """Check every candidate's results, then time those that are right.

    peers: of mlp_peers.PEERS. say: is told what happens now.
    Raises ValueError if the dense MLP is missing or wrong.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    with setting.device:
        block = Block(shape.features, shape.hidden)
        x = torch.randn(shape.tokens, shape.features, dtype=torch.bfloat16)
        grad = torch.randn_like(x)
    x.requires_grad_()
    ready: dict[str, _Ready] = {}
    skipped: dict[str, str] = {}

    def keep(name: str, found: _Ready | str) -> None:
        if isinstance(found, str):
            skipped[name] = found
        else:
            ready[name] = found
        gc.collect()

    with many_graphs():
        for variant in variants:
            say(f"{shape} {variant.name}: first steps")
            keep(variant.name, _start(block, variant, (x, grad), setting))
        for name in peers:
            say(f"{shape} {name}: first steps")
            keep(name, _start_peer(block, name, (x, grad), setting))
        if DENSE not in ready:
            why = skipped.get(DENSE, "it is not among the variants")
            raise ValueError(f"{shape}: there is nothing to compare with, {DENSE!r}: {why}")
        say(f"{shape}: timing {', '.join(ready)}")
        before = graphs_compiled()
        works = {name: found.step.parts for name, found in ready.items()}
        order = three_times(list(works), DENSE)
        times = measure_parts(works, gauges.clock, setting.rounds, order)
        recompiled = graphs_compiled() - before
        say(f"{shape}: memory and energy")
        rows = [_row(name, found, times[name], gauges) for name, found in ready.items()]
    return Result(shape, dense_peak_flops(setting.device), tuple(rows), skipped, recompiled)


def _start(
    block: Block, variant: Variant, tensors: tuple[Tensor, Tensor], setting: Setting
) -> _Ready | str:
    """The variant of a copy of the block; or why its results are wrong."""
    model = copy.deepcopy(block)
    report = prepare(model, variant, setting.engine, tensors[0])
    step = MlpStep(model, compiled(model, variant, setting.mode), *tensors)
    reference = copy.deepcopy(block)
    prepare(reference, variant, "masked")
    error = _error(step, MlpStep(reference, reference, *tensors))
    chooses = variant.sparsity is not None and variant.sparsity.activation is not None
    bound = ERROR_OF_CHOICE if chooses else ERROR
    if not error <= bound:
        return f"wrong result: {error:.2f} from masked products, where {bound} may be"
    step.run()
    runs = "compiled" if variant.compiled else "eager"
    if report is None:
        return _Ready(step, runs, error, {})
    return _Ready(step, runs, error, engine_counts(report), layer_words(report))


def _start_peer(
    block: Block, name: str, tensors: tuple[Tensor, Tensor], setting: Setting
) -> _Ready | str:
    """The peer in a copy of the block, compiled if that runs; or why it does not."""
    reasons: dict[str, str] = {}
    for runs in ("compiled", "eager"):
        model = copy.deepcopy(block)
        try:
            make_peer(name, model)
            # Graph breaks are allowed: a peer may need them.
            mode = None if setting.mode == "default" else setting.mode
            forward = torch.compile(model, mode=mode) if runs == "compiled" else model
            step = MlpStep(model, forward, *tensors)
            reference = copy.deepcopy(block)
            reference.mlp.act = model.mlp.act
            error = _error(step, MlpStep(reference, reference, *tensors))
            if error <= ERROR_OF_PEER:
                return _Ready(step, runs, error, {})
            reasons[runs] = f"wrong result: {error:.2f} from dense, where {ERROR_OF_PEER} may be"
        except REFUSALS as error:
            reasons[runs] = first_line(error)
    if len(set(reasons.values())) == 1:
        return reasons["eager"]
    return "; ".join(f"{runs}: {reason}" for runs, reason in reasons.items())


def _error(step: MlpStep, reference: MlpStep) -> float:
    """The largest relative distance of y or a gradient; NaN if one is."""
    want = {name: value.clone() for name, value in reference.results().items()}
    got = step.results()
    errors = [_distance(got[name], value) for name, value in want.items()]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _distance(got: Tensor, want: Tensor) -> float:
    return ((got.float() - want.float()).norm() / want.float().norm()).item()


def _row(name: str, found: _Ready, times: dict[str, Times], gauges: Gauges) -> Row:
    step = found.step
    step.clear()
    peak = gauges.peak(step.run)
    joules = gauges.joules_of(step.run, times[TOTAL], ENERGY_SECONDS)
    return Row(name, found.runs, times, peak, joules, found.error, found.engines, found.reasons)
