"""Sparse layers in a trace: of torch.fx they are leaves, as the layers of torch.nn are."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn


def traced(module: nn.Module, input: Tensor) -> Any:
    """The node that calls `module` in the graph that torch.fx is tracing; None outside a trace.

    What a layer runs depends on its phase and on autocast, which a trace cannot follow. Raises
    RuntimeError where torch.export (not its strict mode, which Dynamo traces) takes a layer that
    trains sparse: the exported program would give its parameters no gradients.
    """
    # Dynamo takes `is_exporting` for true in all that it compiles.
    exporting = not torch.compiler.is_dynamo_compiling() and torch.compiler.is_exporting()
    if exporting and _trains(module):
        raise RuntimeError(
            "torch.export of a model in training mode drops the gradients of sparse products: call "
            "model.eval() before it, or densify(model) to train what is exported"
        )
    if not isinstance(input, torch.fx.Proxy):
        return None
    tracer: Any = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input,), {})


def _trains(module: nn.Module) -> bool:
    """Whether its sparse products have gradients now; packed layers have none."""
    if not (module.training and torch.is_grad_enabled() and getattr(module, "sparse", False)):
        return False
    return any(parameter.requires_grad for parameter in module.parameters())
