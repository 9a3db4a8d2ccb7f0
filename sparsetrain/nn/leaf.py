"""Sparse layers in a trace of torch.fx: leaves, as the layers of torch.nn are."""

from __future__ import annotations

from typing import Any

import torch.fx
from torch import Tensor, nn


def traced(module: nn.Module, input: Tensor) -> Any:
    """The node that calls `module` in the graph that torch.fx is tracing; None outside a trace.

    What a layer runs depends on its phase and on autocast, which a trace cannot follow.
    """
    if not isinstance(input, torch.fx.Proxy):
        return None
    tracer: Any = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input,), {})
