"""Whether units may change places in a module: tried on a few numbers."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.permutation.units import Units, reorder

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CLOSE = 1e-9  # relative, in float64: rounding is below 1e-13, a wrong order changes digits


def why_changed(model: nn.Module, units: Units) -> str:
    """Why a module is not sure to compute the same with its units in another order; empty if it is.

    Its forward runs in evaluation on a copy in float64, on random tokens, before and after.
    """
    try:
        probe: Any = copy.deepcopy(model.get_submodule(units.name)).double().eval()
    except Exception as error:  # anybody's code; the report names it
        return f"it cannot be copied ({type(error).__name__})"
    for module in probe.modules():
        for hooks in _HOOKS:
            getattr(module, hooks).clear()
    root: Any = _under(probe, units.name)
    random = torch.Generator().manual_seed(0)
    first = root.get_submodule(units.sets[0].rows[0].layer)
    x = torch.randn(_shape(probe, first), generator=random, dtype=torch.float64)
    x = x.to(first.weight.device)
    order_BU = torch.stack([torch.randperm(units.size, generator=random) for _ in units.sets])
    try:
        with torch.no_grad():
            before = _call(probe, x)
            reorder(root, units, order_BU.to(x.device))
            after = _call(probe, x)
    except Exception as error:  # anybody's code; the report names it
        return f"its forward cannot be tried ({type(error).__name__})"
    if not before or [y.shape for y in before] != [y.shape for y in after]:
        return "its forward gives no tensor of a fixed shape"
    pairs = zip(before, after, strict=True)
    if not all((a - b).double().norm() <= _CLOSE * b.double().norm() for b, a in pairs):
        return "its output depends on the order"
    return ""


def _shape(module: nn.Module, first: Any) -> tuple[int, ...]:
    """Of an input: rows for the first layer of an nn.Sequential, which may flatten or normalize
    them, else sequences of tokens."""
    if isinstance(module, nn.Sequential):
        return 2, next(m for m in module.modules() if type(m) is nn.Linear).in_features
    return 2, _tokens(module), first.in_features


def _tokens(module: nn.Module) -> int:
    """How many tokens a forward takes: those of its window (Swin), else any number."""
    bias = getattr(module, "relative_position_bias", module)  # transformers' Swin keeps it there
    size = getattr(module, "window_size", None) or getattr(bias, "window_size", None)
    return math.prod(size) if isinstance(size, tuple) else 3


def _under(module: nn.Module, name: str) -> nn.Module:
    """A module that has the given one under its name."""
    for part in reversed(name.split(".")) if name else ():
        parent = nn.Module()
        parent._modules[part] = module
        module = parent
    return module


def _call(module: Any, x: Tensor) -> list[Tensor]:
    """The module's outputs for tokens alone. Arguments that it needs beside are None, but for
    rotations, which are by nothing."""
    arguments: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(module.forward).parameters.items())[1:]:
        if name == "position_embeddings":
            width = getattr(module, "head_dim", 1)
            arguments[name] = x.new_ones(1, x.shape[1], width), x.new_zeros(1, x.shape[1], width)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            arguments[name] = None
    return list(_tensors(module(x, **arguments)))


def _tensors(y: Any) -> Iterator[Tensor]:
    if isinstance(y, Tensor):
        yield y
    elif isinstance(y, Mapping | list | tuple):
        for each in y.values() if isinstance(y, Mapping) else y:
            yield from _tensors(each)
