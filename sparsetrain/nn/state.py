"""What a checkpoint needs beside the dense state dict to go on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.nn.linear import SparseLinear, sparse_linears
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.phase import Phase


def sparse_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The sparse state of each layer by name, as plain values and tensors: its `phase`, the
    optimizer `step`, whether masks are `frozen` and the first sparse step was `checked`; of a
    linear layer also its `mask` and `scale`, β of S-STE."""
    return {name: _state(layer) for name, layer in _stateful(model).items()}


def load_sparse_state(model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Restore `sparse_state`, before or after `attach`. Raises ValueError if the model's sparse
    layers are others."""
    layers = _stateful(model)
    if layers.keys() != state.keys():
        differ = sorted(layers.keys() ^ state.keys())
        raise ValueError(
            f"the checkpoint's sparse layers are not the model's; they differ in {differ[:5]} "
            f"({len(differ)} in all): use the sparsity it was trained with"
        )
    _load_phases(layers, {name: _upgraded(saved) for name, saved in state.items()})
    # Training updates masks in place, which it may not with tensors made in inference mode.
    with torch.inference_mode(False):
        for name, saved in state.items():
            layer = layers[name]
            if isinstance(layer, SparseLinear):
                layer.mask = _copied(saved["mask"], layer.weight.device)
                layer.scale = _copied(saved["scale"], layer.weight.device)
                layer.flipped = None


def _load_phases(
    layers: Mapping[str, SparseLinear | SparseMlp], state: Mapping[str, dict[str, Any]]
) -> None:
    """Restore phases. Layers that share one before `attach`, and were saved in several (of several
    optimizers), get as many."""
    phases: dict[tuple[Any, ...], Phase] = {}
    for name, saved in state.items():
        old = layers[name].phase
        key = old, *(saved[k] for k in old.state())
        if key not in phases:
            apart = old in phases.values() and not old.attached
            phases[key] = Phase(old.schedule, old.total) if apart else old
            phases[key].load(saved)
        layers[name].phase = phases[key]


def _stateful(model: nn.Module) -> dict[str, SparseLinear | SparseMlp]:
    # An MLP with GELU has no state that its linears have not: where it is none, they alone are
    # saved.
    mlps = {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, SparseMlp) and m.activation is not None
    }
    return {**sparse_linears(model), **mlps}


def _state(layer: SparseLinear | SparseMlp) -> dict[str, Any]:
    state = layer.phase.state()
    if isinstance(layer, SparseLinear):
        state |= {"mask": layer.mask, "scale": layer.scale}
    return state


def _upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """A layer's phase as it is saved today. Checkpoints of 0.1 said only whether it was sparse;
    0.1 evaluated with the masks that it had kept, as frozen ones are."""
    if "phase" in saved:
        return saved
    phase = "sparse" if saved["sparse"] else "dense_warmup"
    return {"phase": phase, "step": 0, "masks_step": -1, "frozen": True, "checked": False}


def _copied(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, copy=True)
