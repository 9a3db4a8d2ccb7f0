"""What methods do around an optimizer step, for the layers of that optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsetrain.methods import Seen, reset
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.optimizers import skipped
from sparsetrain.nn.sharded import local, own_rows, whole
from sparsetrain.patterns import Scored


@torch.no_grad()
def look(optimizer: Optimizer, layers: Sequence[SparseLinear], scale: Tensor | None) -> None:
    """Have methods see the gradients of a step that is about to be made, and change them.

    scale: the factor that gradients still carry. A step that a GradScaler skips is not seen.
    """
    for method in dict.fromkeys(layer.method for layer in layers if layer.phase.sparse):
        method.check(optimizer)
    # A computed weight (a parametrization) is no leaf, and has no gradient.
    layers = [m for m in layers if m.weight.is_leaf and m.weight.grad is not None]
    seeing = [m for m in layers if m.method.looks(m.phase.sparse, m.phase.due_next)]
    if seeing and not skipped(optimizer):
        for layer in seeing:
            _see(layer, scale)
    changed = set()
    for layer in layers:
        # Layers that share a weight have one gradient, which changes once.
        weight, grad, method = layer.weight, layer.weight.grad, layer.method
        if not (layer.phase.sparse and method.changes_gradient) or id(weight) in changed:
            continue
        assert grad is not None, "looked above"
        changed.add(id(weight))
        mask = own_rows(layer.step_mask(), weight)
        method.change_gradient(local(grad), local(weight), mask, scale)


def _see(layer: SparseLinear, scale: Tensor | None) -> None:
    phase, pattern, grad = layer.phase, layer.pattern, layer.weight.grad
    assert grad is not None, "looked before"
    assert isinstance(pattern, Scored), "a method that looks refuses others"
    grad = whole(grad) if scale is None else whole(grad) / scale
    seen = Seen(
        whole(layer.weight),
        grad,
        layer.step_mask(),
        pattern,
        phase.density(pattern.density, ahead=1),
        phase.masks_done(ahead=1),
    )
    with torch.inference_mode(False):
        layer.scores = layer.method.scores(layer.scores, seen)


def update_mask(optimizer: Optimizer, layer: SparseLinear, chosen: Tensor | None = None) -> None:
    """Choose the mask of a layer; a method that resets what changed has weights and the optimizer's
    state of it zeroed. chosen: the mask, where it is known already."""
    if not layer.method.resets or not layer.weight.requires_grad:
        layer.update_mask(chosen)
        return
    # By magnitude, as after a dense phase, it grows nothing that was zero.
    old = None if layer.mask is None or layer.scores is None else layer.mask.clone()
    layer.update_mask()
    layer.scores = None  # they were for this choice
    if not layer.phase.sparse:
        return
    mask = layer.step_mask()
    stay = own_rows(mask if old is None else mask & old, layer.weight)
    state = [t for t in optimizer.state.get(layer.weight, {}).values() if isinstance(t, Tensor)]
    reset([local(t) for t in (layer.weight, *state) if t.shape == layer.weight.shape], stay)
