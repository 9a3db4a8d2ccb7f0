"""Where a number that is not finite comes from, in words."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning.flavour import package_of, pl
from sparsetrain.nn import SparseMlp, SquaredReLU
from sparsetrain.nn.sharded import local


def loss_error(
    trainer: pl.Trainer, pl_module: pl.LightningModule, step: int, loss: Tensor, batch: Any
) -> NonFiniteError:
    if trainer.validating:
        pl_module.train()
    images = batch[0] if isinstance(batch, (list, tuple)) and batch else None
    no_forward = package_of(pl_module).LightningModule.forward
    if not isinstance(images, Tensor) or type(pl_module).forward is no_forward:
        where = "where was not sought: its batch does not begin with images, or it has no `forward`"
    else:
        with trainer.precision_plugin.forward_context():
            where = first_non_finite(pl_module, images)
    return NonFiniteError(f"step {step}: loss is {loss.item()}; {where}")


def gradient_error(step: int, bad: list[str]) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: the gradient of {bad[-1] if bad else 'all, summed,'} is "
        f"not finite ({len(bad)} parameters in all); lower the learning rate, or clip "
        "gradients with trainer.gradient_clip_val"
    )


@torch.no_grad()
def first_non_finite(module: pl.LightningModule, images: Tensor) -> str:
    """Where a forward of `images` first stops being finite, in words. Where weights lie in shards
    all processes call it, each with its own images."""
    found: list[str] = []

    def look(name: str, layer: nn.Module, output: Any) -> None:
        if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(f"{name} ({type(layer).__name__}){_overflow(layer, output)}")

    # A hook on a child of an MLP that runs as one function would have it call its children.
    inside = {id(c) for m in module.modules() if isinstance(m, SparseMlp) for c in m.children()}
    handles = [
        layer.register_forward_hook(lambda m, _, out, name=name: look(name, m, out))
        for name, layer in module.named_modules()
        if id(layer) not in inside
    ]
    # Whatever is known already: weights in shards are gathered by all processes.
    compiled = any(m._compiled_call_impl for m in module.modules())
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        module(images)
    for handle in handles:
        handle.remove()
    if not torch.isfinite(images).all():
        return "the images already hold non-finite values"
    for name, parameter in module.named_parameters():
        if not torch.isfinite(local(parameter)).all():
            return f"the weights {name} are not finite"
    if found:
        return f"first in the output of {found[0]}"
    return "in a second forward every layer's output is finite"


def _overflow(layer: nn.Module, output: Tensor) -> str:
    """What to do where squared ReLU, which float16 seldom holds, may have overflowed."""
    sparse = isinstance(layer, SparseMlp) and layer.method is not None
    if output.dtype != torch.float16 or not (sparse or isinstance(layer, SquaredReLU)):
        return ""
    return (
        "; float16 ends at 65504, which relu(z)² passes where z > 255: set "
        "trainer.precision=bf16-mixed"
    )
