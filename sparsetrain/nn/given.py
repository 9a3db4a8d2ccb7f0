"""The model that a function was given: whether it is one, and what is inside its wrappers."""

from __future__ import annotations

from typing import Any

from torch import nn


def check_module(model: object) -> None:
    """Raise ValueError for what is no module: a state dict, a path, a class of models."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ValueError(f"model is {what}: give an nn.Module")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's, DDP's and DataParallel's wrappers, with names of its own.

    Raises ValueError for a part that was compiled by itself, whose names are not the model's.
    """
    inner: Any = model
    while True:
        if _is_compiled(inner):
            inner = inner._orig_mod
        elif isinstance(inner, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        else:
            break
    for name, module in inner.named_modules():
        if _is_compiled(module):
            raise ValueError(
                f"{name} was compiled by itself, so that its parameters have other names: do this "
                f"before, or compile it in place ({name}.compile())"
            )
    return inner


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule"
