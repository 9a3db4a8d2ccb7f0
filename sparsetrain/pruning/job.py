"""The layers of a model pruned one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from sparsetrain.nn import SparseLinear
from sparsetrain.pruning.calibrate import Calibration, Layers, calibrating, collect, find_order
from sparsetrain.pruning.finished import Finished, FinishedLayers
from sparsetrain.pruning.magnitude import Magnitude
from sparsetrain.pruning.refit import output_error, refit_weights
from sparsetrain.pruning.report import PrunedLayer
from sparsetrain.pruning.sparsegpt import SparseGPT
from sparsetrain.pruning.statistics import Inputs, Reads
from sparsetrain.pruning.wanda import Wanda
from sparsetrain.pruning.weight_norm import WeightNorm
from sparsetrain.reference.masks24 import pack_bits

Method = Magnitude | WeightNorm | Wanda | SparseGPT

OnLayer = Callable[[PrunedLayer, int], None]


@dataclass(frozen=True)
class Job:
    """One call of `prune`."""

    model: nn.Module
    method: Method
    data: Calibration | None
    reads: Reads
    refit: bool
    sequential: bool
    finished: FinishedLayers | None
    on_layer: OnLayer | None

    def run(self, layers: Layers) -> list[PrunedLayer]:
        """Prune each layer, in order."""
        done: list[PrunedLayer] = []
        masks: dict[int, Tensor] = {}  # by weight: layers may share one
        with calibrating(self.model):
            for group, once in self._groups(layers):
                saved = {name: self._saved(name, layers) for name in group}
                left = {name: layers[name] for name in group if saved[name] is None}
                inputs = self._inputs(left, once)
                for name in group:
                    layer, error = layers[name], None
                    if id(layer.weight) in masks:
                        layer.mask = masks[id(layer.weight)].clone()
                    else:
                        pruned = saved[name] or self._prune(name, layers, inputs.pop(name, None))
                        layer.weight.copy_(pruned["weight"])
                        layer.mask, error = pruned["mask"], pruned["error"]
                        masks[id(layer.weight)] = pruned["mask"]
                    done.append(_pruned(name, layer, error))
                    if self.on_layer is not None:
                        self.on_layer(done[-1], len(layers))
        return done

    def _groups(self, layers: Layers) -> Iterator[tuple[tuple[str, ...], bool]]:
        """Layers whose inputs are collected together, and whether no forward calls one twice."""
        if self.data is None or not self.sequential:
            yield tuple(layers), False
            return
        order = find_order(self.model, layers, self.data)
        for group in order.groups:
            yield group, order.once.issuperset(group)

    def _inputs(self, layers: Layers, once: bool) -> dict[str, Inputs]:
        if self.data is None or not layers:
            return {}
        return collect(self.model, layers, self.data, self.reads, stop=once)

    def _prune(self, name: str, layers: Layers, inputs: Inputs | None) -> Finished:
        """Prune one layer, and keep it where finished ones are kept."""
        layer = layers[name]
        before = layer.weight.detach()
        pruned, mask = self.method.prune(before, inputs, layer.pattern, layer.selection)
        error = None
        if inputs is not None and self.reads == "gram":
            if self.refit:
                pruned = refit_weights(before, pruned, mask, inputs.gram_II)
            error = output_error(before, pruned, inputs.gram_II)
        values: Finished = {"weight": pruned, "mask": pack_bits(mask), "error": error}
        if self.finished is not None:
            self.finished.save(list(layers).index(name), name, values)
        return values

    def _saved(self, name: str, layers: Layers) -> Finished | None:
        if self.finished is None:
            return None
        return self.finished.load(list(layers).index(name), name, layers[name].weight)


def _pruned(name: str, layer: SparseLinear, error: float | None) -> PrunedLayer:
    weight = layer.weight.detach()
    density = int(weight.count_nonzero()) / weight.numel()
    return PrunedLayer(name, (layer.out_features, layer.in_features), density, error)
