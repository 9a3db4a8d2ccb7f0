"""Prune a trained model, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from sparsetrain.methods import SSTE
from sparsetrain.nn import SparseLinear, Sparsity, densify, sparse_linears, sparsify
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.products import Engine
from sparsetrain.pruning.calibrate import (
    Calibration,
    Forward,
    calibrating,
    call_model,
    collect,
    find_order,
)
from sparsetrain.pruning.conv1d import put_back, replace_conv1d
from sparsetrain.pruning.finished import FinishedLayers
from sparsetrain.pruning.magnitude import Magnitude
from sparsetrain.pruning.refit import output_error, refit_weights
from sparsetrain.pruning.report import PrunedLayer, PruneReport
from sparsetrain.pruning.sparsegpt import SparseGPT
from sparsetrain.pruning.statistics import Inputs, Reads
from sparsetrain.pruning.wanda import Wanda
from sparsetrain.pruning.weight_norm import WeightNorm
from sparsetrain.reference.masks24 import pack_bits
from sparsetrain.schedule import Schedule
from sparsetrain.select import ROW

Method = Magnitude | WeightNorm | Wanda | SparseGPT

FROZEN = Schedule(freeze_at=0.0)
"""Of a pruned model: its masks stay, however it is trained."""


def prune(
    model: nn.Module,
    method: Method,
    sparsity: Sparsity | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    forward: Forward = call_model,
    refit: bool = False,
    sequential: bool = True,
    engine: Engine | Literal["auto"] = "auto",
    finished: FinishedLayers | None = None,
    on_layer: Callable[[PrunedLayer, int], None] | None = None,
) -> PruneReport:
    """Prune linear layers of a trained model in place: sparse layers whose masks stay.

        st.prune(model, st.Wanda(), calibration=loader)                      # 2:4 along rows
        st.prune(model, st.SparseGPT(), st.Sparsity(pattern=st.Block(64, 64, 0.2)), …)

    Pruned weights are zero in the state dict. The model is as after `sparsify`: `inspect`,
    `sparse_state`, `densify` are the same, and `attach` trains it on under the masks it has. With
    the selection `exact` masks are 2:4 in both orientations, as sparse training wants them.

    method: `Magnitude()`, `WeightNorm()`, `Wanda()` or `SparseGPT()`.
    sparsity: which layers, pattern and selection, by parts if you like; all linear layers 2:4 along
        rows if None. Its methods train the model later, and its schedule is not used.
    calibration: batches, such as a list or a DataLoader; its order and values should be the same in
        every pass. forward: calls the model with one; a mapping is taken as keyword arguments, of a
        list or tuple the first is the input.
    refit: fit the kept weights of each layer to its output again, by least squares.
    sequential: collect the inputs of a layer after the layers before it were pruned. That is one
        pass over the batches to find the order, and one for each layer (for layers that read the
        same tensor together), up to that layer: L + 1 passes at most, (L + 1) / 2 forwards of work,
        in the memory of one layer's statistics. False collects all in one pass, from the dense
        model, in the memory of all layers' statistics.
        Statistics are float64: I numbers for Wanda, I² for SparseGPT and refit.
    engine: as in `sparsify`. finished: where finished layers are kept; a call with the same model
        and options goes on from them.
    on_layer: called with each layer when it is done, and how many there are.

    transformers' Conv1D layers become nn.Linear; their weights lie in state dicts as before.
    Raises ValueError, and changes nothing, where `sparsify` would, for options that do not go
    together, and where no batch reaches a layer. One that is raised later, for inputs that are not
    finite, leaves a dense model of which some layers are pruned: load its weights again.
    """
    _check_model(model)
    _check_method(method, sparsity)
    reads: Reads = "gram" if refit else method.reads
    data = _calibration(method, reads, calibration, forward, sequential)
    job = _Job(model, method, data, reads, refit, sequential)
    sparsity = Sparsity(selection=ROW) if sparsity is None else sparsity
    sparsity = replace(sparsity, schedule=FROZEN)
    if finished is not None:
        finished.open(model, f"{method} {sparsity} refit={refit} sequential={sequential}")
    convs = replace_conv1d(model)
    try:
        sparsified = sparsify(model, sparsity, engine)
        layers = sparse_linears(model)
        done = []
        for layer in job.run(layers, finished):
            done.append(layer)
            if on_layer is not None:
                on_layer(layer, len(layers))
    except BaseException:
        densify(model)
        put_back(model, convs)
        raise
    _keep_masks(layers)
    return PruneReport(tuple(done), sparsified)


@dataclass(frozen=True)
class _Job:
    """One call of `prune`."""

    model: nn.Module
    method: Method
    data: Calibration | None
    reads: Reads
    refit: bool
    sequential: bool

    def run(
        self, layers: dict[str, SparseLinear], finished: FinishedLayers | None
    ) -> Iterator[PrunedLayer]:
        """Prune each layer, in order."""
        numbers = {name: number for number, name in enumerate(layers)}
        masks: dict[int, Tensor] = {}  # by weight: layers may share one
        with calibrating(self.model):
            for group, once in self._groups(layers):
                saved = {
                    name: finished and finished.load(numbers[name], name, layers[name].weight)
                    for name in group
                }
                left = [name for name in group if not saved[name]]
                inputs = self._inputs({name: layers[name] for name in left}, once)
                for name in group:
                    layer, kept = layers[name], saved[name]
                    if id(layer.weight) in masks:
                        layer.mask = masks[id(layer.weight)].clone()
                        yield _pruned(name, layer, None)
                        continue
                    if kept:
                        layer.weight.copy_(kept["weight"])
                        layer.mask, error = kept["mask"], kept["error"]
                    else:
                        error = self._prune(layer, inputs.pop(name, None))
                    assert layer.mask is not None, "pruned"
                    masks[id(layer.weight)] = layer.mask
                    if finished and not kept:
                        finished.save(numbers[name], name, layer.weight, layer.mask, error)
                    yield _pruned(name, layer, error)

    def _groups(self, layers: dict[str, SparseLinear]) -> Iterator[tuple[tuple[str, ...], bool]]:
        """Layers whose inputs are collected together, and whether no forward calls one twice."""
        if self.data is None or not self.sequential:
            yield tuple(layers), False
            return
        order = find_order(self.model, layers, self.data)
        for group in order.groups:
            yield group, order.once.issuperset(group)

    def _inputs(self, layers: dict[str, SparseLinear], once: bool) -> dict[str, Inputs]:
        if self.data is None or not layers:
            return {}
        return collect(self.model, layers, self.data, self.reads, stop=once)

    def _prune(self, layer: SparseLinear, inputs: Inputs | None) -> float | None:
        """Prune one layer; returns the error of its output, where it is known."""
        before = layer.weight.detach().clone()
        pruned, mask = self.method.prune(before, inputs, layer.pattern, layer.selection)
        error = None
        if inputs is not None and self.reads == "gram":
            if self.refit:
                pruned = refit_weights(before, pruned, mask, inputs.gram_II)
            error = output_error(before, pruned, inputs.gram_II)
        layer.weight.copy_(pruned)
        layer.mask = pack_bits(mask)
        return error


def _pruned(name: str, layer: SparseLinear, error: float | None) -> PrunedLayer:
    weight = layer.weight.detach()
    density = int(weight.count_nonzero()) / weight.numel()
    return PrunedLayer(name, (layer.out_features, layer.in_features), density, error)


def _keep_masks(layers: dict[str, SparseLinear]) -> None:
    """Have every layer keep its mask: pruning counts as the step before which masks were chosen, so
    that the next attach goes on with them."""
    for phase in {layer.phase for layer in layers.values()}:
        phase.load(
            {
                "phase": "sparse",
                "trained": "sparse",
                "step": 1,
                "masks_step": 0,
                "frozen": True,
                "checked": False,
            }
        )


def _check_model(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(f"{name} is sharded: prune the model before fully_shard")
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: load the trained weights first")


def _check_method(method: Method, sparsity: Sparsity | None) -> None:
    if isinstance(method, type):
        raise ValueError(f"method={method.__name__}: give an instance, {method.__name__}()")
    if not isinstance(method, Method):
        raise ValueError(
            f"method={method!r}: give Magnitude(), WeightNorm(), Wanda() or SparseGPT()"
        )
    for part in () if sparsity is None else sparsity.rules:
        if part.activation is not None:
            raise ValueError(
                f"sparsity: activation={part.activation}: prune is of weights; leave it away"
            )
        if isinstance(part.weight, SSTE):
            raise ValueError("sparsity: S-STE multiplies by other values than are kept; use STE()")


def _calibration(
    method: Method,
    reads: Reads,
    batches: Iterable[Any] | None,
    forward: Forward,
    sequential: bool,
) -> Calibration | None:
    name = type(method).__name__
    if reads == "nothing":
        if batches is not None:
            raise ValueError(
                f"calibration: {name} looks at weights alone; leave it away, or give refit=True"
            )
        return None
    if batches is None:
        why = name if method.reads != "nothing" else "refit=True"
        raise ValueError(
            f"calibration=None: {why} reads the layers' inputs on calibration data; give batches, "
            "as a list or a DataLoader"
        )
    data = Calibration(batches, forward)
    if sequential and data.once:
        raise ValueError(
            "calibration is an iterator, which one pass uses up: give a list or a DataLoader, or "
            "sequential=False"
        )
    return data
