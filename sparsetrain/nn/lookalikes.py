"""The MLPs of a model, whatever the names of their children: why they are not one function."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsetrain.nn.activations import gelu_of
from sparsetrain.nn.roles import act_of, is_activation, roles_of
from sparsetrain.nn.structure import why_not


def mlp_linears(model: nn.Module) -> dict[str, list[str]]:
    """Names of the linear layers of each MLP: a module with an activation among its children, and
    linear layers that follow each other, or one alone that widens, as BERT's."""
    found = {name: _linears_of(module) for name, module in model.named_modules()}
    found = {name: linears for name, linears in found.items() if linears}
    outer = {above for name in found for above in _above(name)}
    return {
        name: [f"{name}.{linear}".lstrip(".") for linear in linears]
        for name, linears in found.items()
        if name not in outer or roles_of(model.get_submodule(name))
    }


def why_not_gelu(name: str, module: Any, drops: bool = False) -> str:
    """Why an MLP of `mlp_linears` is not one function with a GELU in it; empty if it can be. drops:
    whether dropouts between may have a rate."""
    if not name:
        return "it is the model itself, wrap it in another module"
    roles = roles_of(module)
    if roles is None:
        return _why_unlike(module)
    if why := why_not(module, roles.drops if drops else ()):
        return why
    act = act_of(module)
    return "" if gelu_of(act) else f"its activation is {type(act).__name__}, not GELU"


def why_unlike(model: nn.Module) -> dict[str, str]:
    """Why MLPs with other children (`roles_of`) cannot be one function."""
    mlps = {name: model.get_submodule(name) for name in mlp_linears(model)}
    return {name: _why_unlike(mlp) for name, mlp in mlps.items() if roles_of(mlp) is None}


def _linears_of(module: Any) -> list[str]:
    if roles := roles_of(module):
        return [roles.fc1, roles.fc2]
    if not any(is_activation(name, child) for name, child in module.named_children()):
        return []
    below = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and n.count(".") < 2]
    direct = [name for name in below if "." not in name]
    linears = direct if len(direct) > 1 else below
    if not linears:
        return []
    first, last = (module.get_submodule(linears[i]) for i in (0, -1))
    follow = first.out_features in (last.in_features, 2 * last.in_features)
    follow = first.out_features > first.in_features if len(linears) == 1 else follow
    return linears if follow else []


def _above(name: str) -> list[str]:
    """Names of the modules that hold this one, of the model first."""
    parts = name.split(".") if name else []
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def _why_unlike(module: nn.Module) -> str:
    linears: list[Any] = [module.get_submodule(name) for name in _linears_of(module)]
    if len(linears) == 1:
        return "its second linear layer is in another module"
    if len(linears) > 2 or linears[0].out_features != linears[-1].in_features:
        return "it is gated"
    children = ", ".join(name for name, _ in module.named_children())
    return f"its children are {children}, not two linear layers, an activation and dropouts"
