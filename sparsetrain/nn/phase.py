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

from sparsetrain.autograd import compute_dtype
from sparsetrain.methods import SRSTE, Activation24, add_pruned_decay
from sparsetrain.nn.convert import sparse_linears
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.packing import PackingLayer
from sparsetrain.nn.saved_state import check_state
from sparsetrain.nn.sharded import local, own_rows, reshard


def set_sparse(model: nn.Module, sparse: bool) -> None:
    """Run the converted layers sparse, or dense with the same parameters.

    Entering a sparse phase fixes what a method fixes at its start (β of S-STE), from weights that
    all ranks must share by then, as in `update_masks`.
    """
    reshard(model)
    for module in model.modules():
        if isinstance(module, SparseLinear) and sparse and not module.sparse:
            module.start()
        if isinstance(module, PackingLayer):
            module.sparse = sparse
            module.release()


def update_masks(model: nn.Module) -> None:
    """Choose every layer's mask from its weight now, and keep it until the next call.

    Without any call masks follow the weights in every forward. What `pack_weights` packed had the
    masks before: call it again. With several processes call it on each, once their weights are the
    same: after DDP or FSDP2 (`fully_shard`) took the model. Sharded weights are gathered for it,
    one at a time, and every rank keeps the whole mask.
    """
    reshard(model)
    for layer in sparse_linears(model).values():
        layer.update_mask()
    release_weights(model, keep_memory=True)


def pack_weights(model: nn.Module) -> None:
    """Pack every sparse layer's weight now, under its mask, for all forwards until the next call.

        with torch.autocast("cuda", torch.bfloat16):
            sparsetrain.pack_weights(model)
            for images, labels in micro_batches:
                loss(model(images), labels).backward()
        optimizer.step()

    Call it where weights or masks have changed, before the first forward: then gradient
    accumulation, activation checkpointing and evaluation do not pack again. Without any call every
    forward packs for itself. It packs for products in autocast's dtype where autocast is on, else
    in the weight's; a forward in another dtype packs for itself. So does one that finds a weight
    changed, but compiled code does not look, and changes through `.data` do not show: there, call
    it after each. It packs to where it did before: the backward of a forward from before is then
    refused, as after an optimizer step. Weights that FSDP2 shards are whole in a forward alone,
    which packs them each time.
    """
    reshard(model)
    layers = [m for m in model.modules() if isinstance(m, PackingLayer)]
    mlps = [m for m in layers if isinstance(m, SparseMlp) and m.sparse]
    within = {fc for mlp in mlps for fc in (mlp.fc1, mlp.fc2)}
    for layer in layers:
        if layer not in within:
            weight = layer.weights()[0]
            layer.hold(compute_dtype(weight, weight))


def release_weights(model: nn.Module, keep_memory: bool = False) -> None:
    """Undo `pack_weights`: every forward packs for itself again. keep_memory: the next
    `pack_weights` packs to where this one did."""
    for layer in model.modules():
        if isinstance(layer, PackingLayer):
            layer.release(keep_memory)


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
    Where FSDP2 shards the weights and masks are not kept (`update_masks`), each step gathers them.
    """
    reshard(model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = [m for m in sparse_linears(model).values() if id(m.weight) in held]
    layers = [m for m in layers if isinstance(m.method, SRSTE)]
    # Layers that share a weight have one gradient, which decays once.
    decayed = list({id(m.weight): m for m in layers}.values())

    def add_decay(scale: Tensor | None) -> None:
        reshard(model)
        for layer in decayed:
            weight, grad = layer.weight, layer.weight.grad
            if layer.sparse and grad is not None and isinstance(layer.method, SRSTE):
                mask = own_rows(layer.current_mask(), weight)
                add_pruned_decay(local(grad), local(weight), mask, layer.method.decay, scale)

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
    } | {name: {"sparse": mlp.sparse} for name, mlp in model.named_modules() if _has_state(mlp)}


def _has_state(module: nn.Module) -> bool:
    # An MLP with GELU is in the phase of its linears: where it is none, they alone are saved.
    return isinstance(module, SparseMlp) and isinstance(module.activation, Activation24)


def load_sparse_state(model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Restore `sparse_state`.

    Raises ValueError naming the layer, and changes nothing, if the model's sparse layers are others
    or their masks and β are not what the methods of the layers can have (`saved_state.py`).
    """
    modules: dict[str, Any] = {n: m for n, m in model.named_modules() if _has_state(m)}
    modules |= sparse_linears(model)
    check_state(modules, state)
    # Training updates masks in place, which it may not with tensors made in inference mode.
    with torch.inference_mode(False):
        for name, saved in state.items():
            module = modules[name]
            module.sparse = saved["sparse"]
            if isinstance(module, SparseLinear):
                module.mask = _copied(saved["mask"], module.weight.device)
                module.scale = _copied(saved["scale"], module.weight.device)
    for module in model.modules():
        if isinstance(module, SparseMlp) and not _has_state(module):
            linears = module.fc1, module.fc2
            module.sparse = all(isinstance(fc, SparseLinear) and fc.sparse for fc in linears)
    release_weights(model)


def _copied(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, copy=True)
