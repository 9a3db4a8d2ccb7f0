"""Whether a module computes fc2(act(fc1(x))) and nothing else, so that it can be one function."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.roles import Roles, act_of, fc1_of, fc2_of, known_roles, norm_of
from sparsetrain.nn.sharded import is_wrapped
from sparsetrain.nn.trial import why_not_equal

KEPT = ("method", "product", "phase", "watch", "roles")
"""Attributes of a `SparseMlp`, beside those of the dense module."""
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def mlp_shape(module: nn.Module) -> tuple[int, int, int]:
    """Features of its input, between its two linear layers, and of its output."""
    fc1, fc2 = fc1_of(module), fc2_of(module)
    return fc1.in_features, fc1.out_features, fc2.out_features


def why_not(module: Any, may_drop: tuple[str, ...] = ()) -> str:
    """Why a module with the children of an MLP cannot be one function; empty if it can.

    Tried on a few numbers, so that it is sure to compute fc2(act(fc1(x))) and nothing else.
    may_drop: dropouts between act and fc2 that may have a rate: what takes its place sees to them.
    """
    roles = known_roles(module)
    if is_wrapped(module):
        return "it was itself given to fully_shard: call sparsify before"
    fc1, fc2 = fc1_of(module), fc2_of(module)
    if not {type(fc1), type(fc2)} <= {nn.Linear, SparseLinear}:
        kinds = f"{roles.fc1} is {type(fc1).__name__} and {roles.fc2} {type(fc2).__name__}"
        return f"{kinds}, not plain nn.Linear"
    if fc1.out_features != fc2.in_features:
        return f"it is gated ({roles.fc1} gives more features than {roles.fc2} takes)"
    if taken := [name for name in KEPT if hasattr(module, name)]:
        return f"its own {taken[0]} would be overwritten"
    others = [name for name, _ in module.named_children() if name not in roles.known]
    if others:
        return f"it has further children: {', '.join(others)}"
    # Ones or zeros to begin with, they change nothing that could be seen here, and train.
    if own := [n for n, t in {**module._parameters, **module._buffers}.items() if t is not None]:
        return f"it has parameters or buffers of its own: {', '.join(own)}"
    if _why_normed(module, roles):
        return "it normalizes between act and fc2"
    if why := _why_dropped(module, roles, tuple(n for n in roles.drops if n not in may_drop)):
        return f"it drops out between {roles.act} and {roles.fc2} ({why})"
    if bad := [features for features in mlp_shape(module) if features % 4]:
        return f"{bad[0]} features are not a multiple of 4"
    if hooked := [name for name, part in act_of(module).named_modules() if name and _hooks(part)]:
        return f"{roles.act}.{hooked[0]} has hooks, which would not run"
    return why_not_called(module) or why_not_equal(module)


def why_apart(module: Any, act: type[nn.Module]) -> str:
    """Why the children of an MLP that was one function must be called now; empty if they need not.

    Asked in every forward: somebody may have replaced, adapted or hooked one since. act: the
    activation that it was made for.
    """
    roles = known_roles(module)
    for name in (roles.fc1, roles.fc2):
        child = getattr(module, name)
        if why := _why_not_plain(child, name):
            return why
        if act is nn.GELU and not (isinstance(child, SparseLinear) and child.sparse):
            return f"{name} is dense now"
    if type(act_of(module)) is not act:
        return f"{roles.act} is {type(act_of(module)).__name__} now"
    # A dropout may be in another mode than its MLP (Monte Carlo dropout).
    drops = tuple(n for n in roles.drops if getattr(getattr(module, n, None), "training", False))
    if why := _why_dropped(module, roles, drops):
        return f"{why} now"
    return _why_normed(module, roles) or why_not_called(module)


def why_not_dropped(module: Any) -> str:
    """Why 2:4 dropout cannot stand where the first dropout was any more; empty if it can."""
    roles = known_roles(module)
    if why := _why_dropped(module, roles, roles.drops[1:]):
        return f"{why} now"
    return _why_hooked(module, roles.drops)


def why_fc2_apart(module: Any) -> str:
    """Why fc2 must be called now, and be no function with the dropout before it; empty if not."""
    roles = known_roles(module)
    plain = _why_not_plain(fc2_of(module), roles.fc2) or _why_normed(module, roles)
    return plain or _why_hooked(module, (roles.norm, roles.fc2))


def _why_not_plain(child: nn.Module, name: str) -> str:
    if type(child) not in (nn.Linear, SparseLinear):
        return f"{name} is {type(child).__name__} now"
    # What a hook computes, as weight_norm does and pruning, is no parameter any more. That of a
    # replica of nn.DataParallel was one.
    if "weight" not in {**child._parameters, **getattr(child, "_former_parameters", {})}:
        return f"{name}.weight is computed now"
    return ""


def _why_normed(module: nn.Module, roles: Roles) -> str:
    norm = norm_of(module)
    if isinstance(norm, (nn.Identity, type(None))):
        return ""
    return f"{roles.norm} is {type(norm).__name__} now"


def _why_dropped(module: Any, roles: Roles, names: tuple[str, ...]) -> str:
    """What of its dropouts does more than nothing: those of these names by their rate, any that is
    of another class."""
    for name in roles.drops:
        child: Any = getattr(module, name, None)
        if type(child) not in (nn.Dropout, nn.Identity, type(None)):
            return f"{name} is {type(child).__name__}"
        if name in names and getattr(child, "p", 0.0):
            return f"{name}.p is {child.p}"
    return ""


def why_not_called(module: nn.Module) -> str:
    """Why calling the children of an MLP is not the same as computing what they do; empty if it is.
    Asked in every forward: hooks, and forwards that were replaced."""
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    return _why_hooked(module, known_roles(module).between)


def _hooks(module: Any) -> bool:
    return any(getattr(module, kind, None) for kind in _HOOKS)


def _why_hooked(module: nn.Module, names: tuple[str, ...]) -> str:
    for name in names:
        child = getattr(module, name, None)
        if _hooks(child):
            return f"{name} has hooks, which would not run"
        if "forward" in getattr(child, "__dict__", ()):
            return f"{name}.forward was replaced on the instance, which would not run"
    return ""
