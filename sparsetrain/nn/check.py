"""The run checks itself: what is reported sparse runs sparse, and its optimizer is attached.

In its first sparse step every layer is watched (`nn.watch`). A list of models that read past their
layers can never be complete, and a sparse run that trains dense is the failure to prevent.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from sparsetrain.methods import SRSTE
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.sharded import local
from sparsetrain.nn.watch import Watch

_eager: list[Any] = []  # the stance of torch.compile while a step is watched, at most one


class FirstStep:
    """Watches layers until each was seen to train sparse.

    names: of all modules. Layers that neither ran nor received a gradient (an unrouted expert, a
    skipped block) are `idle`, and are looked at again when they first do.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self._names = names
        self._watched: dict[SparseLinear, Watch] = {}
        self._without_compiled: set[nn.Module] = set()  # layers whose step runs so, from its start

    @property
    def idle(self) -> list[str]:
        """Names of the layers that were not seen to train sparse yet."""
        return [self._names[layer] for layer in self._watched]

    def begin(self, layers: Iterable[nn.Module]) -> None:
        """Watch the layers from the next forward on."""
        new = [m for m in layers if isinstance(m, SparseLinear) and m not in self._watched]
        for layer in new:
            layer.watch = self._watched[layer] = Watch()
        self._run_without_compiled(new)

    def look(self, layers: Collection[nn.Module]) -> None:
        """What the backward of a step has shown of the layers of its optimizer.

        Raises RuntimeError where they are not sparse.
        """
        past, beside, unknown = [], [], []
        for layer, watch in [(m, w) for m, w in self._watched.items() if m in layers and m.sparse]:
            if watch.ran:
                if watch.read_beside():
                    beside.append(layer)
                self._stop(layer)
            elif _received(layer, watch):
                # Compiled code is not watched: look again, without it. What imports dynamo after
                # `begin` compiles in spite of it.
                trusted = bool(_eager) or "torch._dynamo" not in sys.modules
                seen = past if layer in self._without_compiled and trusted else unknown
                seen.append(layer)
        if past or beside:
            self.stop()
            raise RuntimeError(self._complaint(past, beside))
        self._without_compiled -= set(layers)
        self._run_without_compiled(unknown)

    def watches(self, layers: Iterable[nn.Module]) -> bool:
        """Whether any of the layers was not seen to train sparse yet."""
        return any(layer in self._watched for layer in layers)

    def stop(self) -> None:
        """Watch nothing more."""
        for layer in list(self._watched):
            self._stop(layer)
        self._without_compiled.clear()
        self._run_without_compiled([])

    def _stop(self, layer: SparseLinear) -> None:
        self._watched.pop(layer).stop()
        layer.watch = None

    def _run_without_compiled(self, layers: Iterable[nn.Module]) -> None:
        self._without_compiled |= set(layers)
        if self._without_compiled and "torch._dynamo" in sys.modules and not _eager:
            stance = torch.compiler.set_stance("force_eager")
            stance.__enter__()
            _eager.append(stance)
        while _eager and not self._without_compiled:
            _eager.pop().__exit__(None, None, None)

    def _complaint(self, past: list[SparseLinear], beside: list[SparseLinear]) -> str:
        lines = []
        for layers, what in (
            (past, "read their weight without calling them, so they train dense"),
            (beside, "read the dense weight beside the sparse product"),
        ):
            if layers:
                names = [self._names[layer] for layer in layers]
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                kinds = sorted({self._parent(name) for name in names})
                lines.append(f"{', '.join(names[:5])}{more}: {', '.join(kinds)} {what}")
        return (
            f"layers reported sparse are not: {'; '.join(lines)}. Exclude them from the sparsity, "
            "or attach(…, check=False) if a loss is meant to read the weights"
        )

    def _parent(self, name: str) -> str:
        parent = name.rpartition(".")[0]
        return next((type(m).__name__ for m, n in self._names.items() if n == parent), "the model")


def check_held(names: Mapping[nn.Module, str]) -> None:
    """Refuse weights that train although no attached optimizer holds them. Raises RuntimeError."""
    layers = [m for m in names if isinstance(m, SparseLinear) and not m.phase.attached]
    for layer in layers:
        weight = layer._parameters.get("weight")
        decays = isinstance(layer.method, SRSTE) and layer.method.decay > 0
        if weight is None and decays:
            raise RuntimeError(
                f"{names[layer]}.weight is computed (by a parametrization or a hook), so SR-STE's "
                "decay cannot reach it: remove that, or exclude the layer"
            )
        if weight is not None and weight.requires_grad and weight.grad is not None:
            raise RuntimeError(
                f"{names[layer]}.weight trains, and no attached optimizer holds it: give its "
                "optimizer to attach as well, or exclude the layer"
            )


def _received(layer: SparseLinear, watch: Watch) -> bool:
    if watch.total is not None:
        return bool(watch.total.any())
    grad = layer.weight.grad if layer.weight.is_leaf else None
    return grad is not None and bool(local(grad).any())
