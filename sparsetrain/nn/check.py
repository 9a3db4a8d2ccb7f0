"""The run checks itself: what is reported sparse runs sparse, and its optimizer is attached.

In its first sparse step every layer is watched (`nn.watch`). A list of models that read past their
layers can never be complete, and a sparse run that trains dense is the failure to prevent.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from weakref import WeakSet, finalize

import torch
from torch import Tensor, nn

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.sharded import local
from sparsetrain.nn.watch import Watch

Layer = SparseLinear | SparseMlp

_waiting: WeakSet[nn.Module] = WeakSet()
"""Layers whose step is run without compiled code, from its start to the look at it."""

_eager: list[Any] = []  # the stance of torch.compile while there are any, at most one


def begin(layers: Iterable[Layer]) -> None:
    """Watch the layers from the next forward on, which runs without compiled code. Of MLPs those
    whose activations are 2:4: the others have no zeros but their linear layers'."""
    for layer in layers:
        if isinstance(layer, SparseLinear) or layer.method is not None:
            layer.watch = Watch()
            # Of a model that is thrown away before its first step.
            finalize(layer, _set_stance).atexit = False
            _waiting.add(layer)
    _set_stance()


def stop(layers: Iterable[nn.Module]) -> None:
    """Watch them no more."""
    for layer in layers:
        _waiting.discard(layer)
        if isinstance(layer, Layer) and layer.watch is not None:
            layer.watch.stop()
            layer.watch = None
    _set_stance()


def idle(layers: Iterable[nn.Module]) -> list[Layer]:
    """Layers that are watched and were not seen to train sparse yet: an unrouted expert, a block
    that was skipped. They are looked at again when they first do."""
    return [m for m in layers if isinstance(m, Layer) and m.watch is not None]


def patched(modules: Iterable[nn.Module], known: set[nn.Module]) -> list[Layer]:
    """Layers in modules on whose instance a forward was put since, which may read weights past
    their layers: they are to be watched again. known: where there was one before; it grows. Of each
    module once, so that who puts a new one there in every step still trains compiled."""
    new = [m for m in modules if "forward" in m.__dict__ and m not in known]
    known.update(new)
    inside = {part: None for module in new for part in module.modules()}
    return [m for m in inside if isinstance(m, Layer) and m.watch is None]


def look(layers: Collection[Layer], names: Mapping[nn.Module, str]) -> None:
    """What the backward of a step has shown of the layers of its optimizer.

    Raises RuntimeError where they are reported sparse and are not.
    """
    seen, past, beside, unknown = [], [], [], []
    for layer in [layer for layer in idle(layers) if layer.phase.sparse]:
        watch = layer.watch
        assert watch is not None, "it is idle"
        if not watch.ran and not any(weight.requires_grad for weight in _weights(layer)):
            if _adapter_trains(names.get(layer, ""), names):
                past.append(layer)
            continue
        # Layers on one weight receive one gradient.
        others = [m.watch for m in layers if m is not layer and _share(m, layer)]
        told = all(other is not None for other in others)
        if watch.overflowed:
            watch.forget()
        elif watch.trained:
            (beside if told and watch.read_beside(others) else seen).append(layer)
        elif not told or any(other.ran for other in others if other is not None):
            continue  # the gradient is of the others
        elif not layer.sparse:
            continue  # trained in evaluation mode, which is one step behind
        elif _received(layer, watch):
            # Compiled code is not watched: look again, without it. What imports dynamo after
            # `begin` compiles in spite of it.
            trusted = bool(_eager) or "torch._dynamo" not in sys.modules
            (past if layer in _waiting and trusted else unknown).append(layer)
    stop(seen)
    _waiting.difference_update(layers)
    _waiting.update(unknown)
    if seen and _waiting:
        gc.collect()  # of a model that was thrown away with a cycle of references in it
    _set_stance()
    if past or beside:  # watched on: whoever goes on in spite of it is told again
        raise RuntimeError(_complaint(past, beside, names))


def _set_stance() -> None:
    if _waiting and "torch._dynamo" in sys.modules and not _eager:
        stance = torch.compiler.set_stance("force_eager")
        stance.__enter__()
        _eager.append(stance)
    while _eager and not _waiting:
        _eager.pop().__exit__(None, None, None)


def _complaint(past: list[Layer], beside: list[Layer], names: Mapping[nn.Module, str]) -> str:
    linears = [layer for layer in past if isinstance(layer, SparseLinear)]
    mlps = [layer for layer in past if isinstance(layer, SparseMlp)]
    lines = []
    for layers, what in (
        (
            linears,
            "read their weight without calling them, or a forward put on the instance does, so "
            "they train dense",
        ),
        (beside, "read the dense weight beside the sparse product"),
        (mlps, "(or a forward put on the instance) computes them, so their activations are dense"),
    ):
        if layers:
            found = [names[layer] for layer in layers]
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            parents = {name.rpartition(".")[0] for name in found}
            kinds = sorted({type(m).__name__ for m, name in names.items() if name in parents})
            lines.append(f"{', '.join(found[:5])}{more}: {', '.join(kinds)} {what}")
    return (
        f"layers reported sparse are not: {'; '.join(lines)}. Exclude them from the sparsity, or "
        "attach(…, check=False) if a loss is meant to read the weights"
    )


def let_go(layers: Iterable[SparseLinear], held: set[int]) -> bool:
    """Take layers from what their optimizer holds where another parameter took the place of theirs,
    as by `load_state_dict(assign=True)`; whether there are any, or a weight is computed now that
    must be a parameter. held: ids of its parameters."""
    weights = {layer: layer._parameters.get("weight") for layer in layers}
    computed = [m for m, w in weights.items() if w is None and _needs_parameter(m)]
    lost = [m for m, w in weights.items() if w is not None and id(w) not in held]
    lost = [layer for layer in lost if layer.weight.requires_grad]
    for layer in lost:
        layer.phase.held.discard(layer)
    return bool(lost or computed)


def check_held(names: Mapping[nn.Module, str]) -> None:
    """Refuse weights that train although no attached optimizer holds them. Raises RuntimeError."""
    for layer in [m for m in names if isinstance(m, SparseLinear)]:
        weight = layer._parameters.get("weight")
        if weight is None and (what := _needs_parameter(layer)):
            raise RuntimeError(
                f"{names[layer]}.weight is computed (by a parametrization or a hook), so "
                f"{what} cannot reach it: remove that, or exclude the layer"
            )
        # Another loop may have zeroed the gradient that its backward gave.
        seen = layer.watch is not None and layer.watch.total is not None
        trains = weight is not None and weight.requires_grad and (seen or weight.grad is not None)
        if trains and layer not in layer.phase.held:
            raise RuntimeError(
                f"{names[layer]}.weight trains, and no attached optimizer holds it: give its "
                "optimizer to attach as well, or exclude the layer"
            )


def _needs_parameter(layer: SparseLinear) -> str:
    """What a computed weight would lack. A hook's is that of the last forward, before the step."""
    of_last_forward = layer.keeps_mask and "weight" in vars(layer)
    return layer.method.in_step[0] or (
        "a choice of masks after the step" if of_last_forward else ""
    )


def _weights(layer: Layer) -> list[Tensor]:
    return [layer.weight] if isinstance(layer, SparseLinear) else list(layer.parameters())


def _share(layer: Layer, other: Layer) -> bool:
    """Whether two layers of one kind have a weight together."""
    own = {id(weight) for weight in _weights(layer)}
    alike = isinstance(layer, SparseLinear) == isinstance(other, SparseLinear)
    return alike and any(id(weight) in own for weight in _weights(other))


def _adapter_trains(name: str, names: Mapping[nn.Module, str]) -> bool:
    """Whether the adapter around a frozen layer received a gradient (its layer is `base_layer`)."""
    parent, _, last = name.rpartition(".")
    if last != "base_layer":
        return False
    adapter = next(module for module, other in names.items() if other == parent)
    if sum(isinstance(module, SparseLinear) for module in adapter.modules()) > 1:
        return False  # it trains a copy of the layer, in the place of that
    return any(p.grad is not None and bool(local(p.grad).any()) for p in adapter.parameters())


def _received(layer: Layer, watch: Watch) -> bool:
    if watch.total is not None:
        return bool(watch.total.any())
    grads = [weight.grad for weight in _weights(layer) if weight.is_leaf]
    return any(grad is not None and bool(local(grad).any()) for grad in grads)
