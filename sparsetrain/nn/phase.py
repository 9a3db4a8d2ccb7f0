"""What a training loop does to a sparse model: phases, masks, decay in the optimizer step, state.

A callback says when; a loop of one's own calls these itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsetrain.methods import SRSTE, add_pruned_decay
from sparsetrain.nn.convert import sparse_linears
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp


def set_sparse(model: nn.Module, sparse: bool) -> None:
    """Run the converted layers sparse, or dense with the same parameters.

    Entering a sparse phase fixes what a method fixes at its start (β of S-STE).
    """
    for module in model.modules():
        if isinstance(module, SparseLinear) and sparse and not module.sparse:
            module.start()
        if isinstance(module, (SparseLinear, SparseMlp)):
            module.sparse = sparse


def update_masks(model: nn.Module) -> None:
    """Choose every layer's mask from its weight now, and keep it until the next call.

    Without any call masks follow the weights in every forward.
    """
    for layer in sparse_linears(model).values():
        layer.update_mask()


class AttachedDecay:
    """SR-STE's decay in an optimizer, until `remove()`."""

    def __init__(self, layers: list[SparseLinear], hook: RemovableHandle) -> None:
        self._layers, self._hook = layers, hook
        self._attached(True)

    def remove(self) -> None:
        """Take the decay out; training without it warns again."""
        self._hook.remove()
        self._attached(False)

    def _attached(self, attached: bool) -> None:
        for layer in self._layers:
            layer.decay_attached = attached


def decay_pruned_weights(model: nn.Module, optimizer: Optimizer) -> AttachedDecay:
    """Add SR-STE's decay · (1 − mask) ⊙ weight to the gradients in every `optimizer.step()`.

    It comes last: after the backward, unscaling and clipping, whether those happen before the
    step or in a closure given to it. Dense phases have no decay. Returns a handle to remove it.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = [m for m in sparse_linears(model).values() if id(m.weight) in held]
    layers = [m for m in layers if isinstance(m.method, SRSTE)]
    # Layers that share a weight have one gradient, which decays once.
    decayed = list({id(m.weight): m for m in layers}.values())

    def add_decay(scale: Tensor | None) -> None:
        for layer in decayed:
            if layer.sparse and layer.weight.grad is not None and isinstance(layer.method, SRSTE):
                mask = layer.current_mask()
                add_pruned_decay(layer.weight.grad, layer.weight, mask, layer.method.decay, scale)

    def before_step(
        optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # Set by a GradScaler on optimizers that unscale in their own kernel.
        scale = getattr(optimizer, "grad_scale", None)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            add_decay(scale)
            return None
        return args[:1], {"closure": _then(closure, add_decay)}

    return AttachedDecay(layers, optimizer.register_step_pre_hook(before_step))


def _then(closure: Callable[[], Any], add_decay: Callable[[Tensor | None], None]) -> Any:
    def closure_with_decay() -> Any:
        loss = closure()
        add_decay(None)
        return loss

    return closure_with_decay


def sparse_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What a checkpoint needs beside the dense state dict to go on exactly: per sparse layer its
    mask, β of S-STE, and whether it is in a sparse phase."""
    return {
        name: {"mask": layer.mask, "scale": layer.scale, "sparse": layer.sparse}
        for name, layer in sparse_linears(model).items()
    } | {
        name: {"sparse": mlp.sparse}
        for name, mlp in model.named_modules()
        if isinstance(mlp, SparseMlp)
    }


def load_sparse_state(model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Restore `sparse_state`. Raises ValueError if the model's sparse layers are others."""
    modules = {n: m for n, m in model.named_modules() if isinstance(m, (SparseLinear, SparseMlp))}
    if modules.keys() != state.keys():
        differ = sorted(modules.keys() ^ state.keys())
        raise ValueError(
            f"the checkpoint's sparse layers are not the model's; they differ in {differ[:5]} "
            f"({len(differ)} in all): use the sparsity it was trained with"
        )
    # Training updates masks in place, which it may not with tensors made in inference mode.
    with torch.inference_mode(False):
        for name, saved in state.items():
            module = modules[name]
            module.sparse = saved["sparse"]
            if isinstance(module, SparseLinear):
                module.mask = _copied(saved["mask"], module.weight.device)
                module.scale = _copied(saved["scale"], module.weight.device)


def _copied(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, copy=True)
