"""What a checkpoint needs beside the dense state dict to go on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.nn.linear import SparseLinear, sparse_linears
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.saved_state import check_state


def sparse_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The sparse state of each layer by name, as plain values and tensors.

    The `phase` of the next step and the one `trained` last, the optimizer `step`, whether masks are
    `frozen` and the first sparse step was `checked`; of a linear layer also its `mask`, `scale` (β
    of S-STE) and, where its method keeps some, `scores`.
    """
    return {name: _state(layer) for name, layer in _stateful(model).items()}


def load_sparse_state(model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Restore `sparse_state`, before or after `attach`.

    Raises ValueError naming the layer, and changes nothing, if the model's sparse layers are others
    or their masks and β are not what the methods of the layers can have (`saved_state.py`).
    """
    layers = _stateful(model)
    if isinstance(state, Mapping):
        state = {name: _upgraded(saved) for name, saved in state.items()}
    check_state(layers, state)
    _load_phases(layers, state)
    # Training updates masks in place, which it may not with tensors made in inference mode.
    with torch.inference_mode(False):
        for name, saved in state.items():
            layer = layers[name]
            if isinstance(layer, SparseLinear):
                layer.mask = _copied(saved["mask"], layer.weight.device)
                layer.scale = _copied(saved["scale"], layer.weight.device)
                layer.scores = _copied(saved.get("scores"), layer.weight.device)
                layer.flipped = None


def _load_phases(
    layers: Mapping[str, SparseLinear | SparseMlp], state: Mapping[str, dict[str, Any]]
) -> None:
    """Restore phases. Layers that share one before `attach`, and were saved in several (of several
    optimizers), get as many."""
    phases: dict[tuple[Any, ...], Phase] = {}
    # Several that become one go on from the one that is furthest.
    for name, saved in sorted(state.items(), key=lambda item: item[1]["step"]):
        old = layers[name].phase
        key = old, *(saved[k] for k in old.state())
        if key not in phases:
            apart = old in phases.values() and not old.attached
            phases[key] = old.another(old.total) if apart else old
            phases[key].load(saved)
        layers[name].phase = phases[key]


def _stateful(model: nn.Module) -> dict[str, SparseLinear | SparseMlp]:
    # An MLP with GELU has no state that its linears have not: where it is none, they alone are
    # saved.
    mlps = {
        n: m for n, m in model.named_modules() if isinstance(m, SparseMlp) and m.method is not None
    }
    return {**sparse_linears(model), **mlps}


def _state(layer: SparseLinear | SparseMlp) -> dict[str, Any]:
    state = layer.phase.state()
    if isinstance(layer, SparseLinear):
        state |= {"mask": layer.mask, "scale": layer.scale}
        state |= {} if layer.scores is None else {"scores": layer.scores}
    return state


def _upgraded(saved: Any) -> Any:
    """A layer's state as it is saved today. Format 1 said only whether the layer was sparse, and
    evaluated with the masks that it had kept, as frozen ones are."""
    if not isinstance(saved, Mapping) or saved.keys() - {"mask", "scale"} != {"sparse"}:
        return saved
    if not isinstance(saved["sparse"], bool):
        return saved
    phase = "sparse" if saved["sparse"] else "dense_warmup"
    rest = {"step": 0, "masks_step": -1, "frozen": True, "checked": False}
    return {
        "phase": phase,
        "trained": phase,
        **rest,
        **{k: v for k, v in saved.items() if k != "sparse"},
    }


def _copied(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, copy=True)
