"""Whether a module computes fc2(act(fc1(x))) and nothing else, so that it can be one function."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsetrain.nn.activations import ACTIVATIONS, act_name, act_of
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.sharded import is_wrapped
from sparsetrain.nn.trial import why_not_equal

_KNOWN = {"fc1", "drop1", "norm", "fc2", "drop2", "drop"}
_BETWEEN = ("fc1", *ACTIVATIONS, "drop1", "norm", "drop", "fc2")
DROPS = ("drop1", "drop")
KEPT = ("method", "product", "phase", "watch")
"""Attributes of a `SparseMlp`, beside those of the dense module."""
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_mlp(module: nn.Module) -> bool:
    """Whether the module has the children of timm's `Mlp`: fc1, act, fc2; or of transformers',
    which name the activation otherwise (`ACTIVATIONS`)."""
    fcs = (getattr(module, name, None) for name in ("fc1", "fc2"))
    return act_of(module) is not None and all(isinstance(fc, nn.Module) for fc in fcs)


def mlp_shape(module: Any) -> tuple[int, int, int]:
    """Features of its input, between its two linear layers, and of its output."""
    return module.fc1.in_features, module.fc1.out_features, module.fc2.out_features


def why_not(module: Any, may_drop: tuple[str, ...] = ()) -> str:
    """Why a module with the children of an MLP (`is_mlp`) cannot be one function; empty if it can.

    Tried on a few numbers, so that it is sure to compute fc2(act(fc1(x))) and nothing else.
    may_drop: dropouts between act and fc2 that may have a rate: what takes its place sees to them.
    """
    if is_wrapped(module):
        return "it was itself given to fully_shard: call sparsify before"
    fc1, fc2 = module.fc1, module.fc2
    if not {type(fc1), type(fc2)} <= {nn.Linear, SparseLinear}:
        return f"fc1 is {type(fc1).__name__} and fc2 {type(fc2).__name__}, not plain nn.Linear"
    if fc1.out_features != fc2.in_features:
        return "it is gated (fc1 gives more features than fc2 takes)"
    if taken := [name for name in KEPT if hasattr(module, name)]:
        return f"its own {taken[0]} would be overwritten"
    known = {*_KNOWN, act_name(module)}
    others = [name for name, _ in module.named_children() if name not in known]
    if others:
        return f"it has further children: {', '.join(others)}"
    # Ones or zeros to begin with, they change nothing that could be seen here, and train.
    if own := [n for n, t in {**module._parameters, **module._buffers}.items() if t is not None]:
        return f"it has parameters or buffers of its own: {', '.join(own)}"
    if _why_normed(module):
        return "it normalizes between act and fc2"
    if why := _why_dropped(module, tuple(name for name in DROPS if name not in may_drop)):
        return f"it drops out between act and fc2 ({why})"
    if bad := [features for features in mlp_shape(module) if features % 4]:
        return f"{bad[0]} features are not a multiple of 4"
    if hooked := [name for name, part in act_of(module).named_modules() if name and _hooks(part)]:
        return f"{act_name(module)}.{hooked[0]} has hooks, which would not run"
    return why_not_called(module) or why_not_equal(module)


def why_apart(module: Any, act: type[nn.Module]) -> str:
    """Why the children of an MLP that was one function must be called now; empty if they need not.

    Asked in every forward: somebody may have replaced, adapted or hooked one since. act: the
    activation that it was made for.
    """
    for name in ("fc1", "fc2"):
        child = getattr(module, name)
        if why := _why_not_plain(child, name):
            return why
        if act is nn.GELU and not (isinstance(child, SparseLinear) and child.sparse):
            return f"{name} is dense now"
    if type(act_of(module)) is not act:
        return f"{act_name(module)} is {type(act_of(module)).__name__} now"
    # A dropout may be in another mode than its MLP (Monte Carlo dropout).
    drops = tuple(n for n in DROPS if getattr(getattr(module, n, None), "training", False))
    if why := _why_dropped(module, drops):
        return f"{why} now"
    return _why_normed(module) or why_not_called(module)


def why_not_dropped(module: Any) -> str:
    """Why 2:4 dropout cannot stand where drop1 was any more; empty if it can."""
    if why := _why_dropped(module, ("drop",)):
        return f"{why} now"
    return _why_hooked(module, DROPS)


def why_fc2_apart(module: Any) -> str:
    """Why fc2 must be called now, and be no function with the dropout before it; empty if not."""
    plain = _why_not_plain(module.fc2, "fc2") or _why_normed(module)
    return plain or _why_hooked(module, ("norm", "fc2"))


def _why_not_plain(child: nn.Module, name: str) -> str:
    if type(child) not in (nn.Linear, SparseLinear):
        return f"{name} is {type(child).__name__} now"
    # What a hook computes, as weight_norm does and pruning, is no parameter any more. That of a
    # replica of nn.DataParallel was one.
    if "weight" not in {**child._parameters, **getattr(child, "_former_parameters", {})}:
        return f"{name}.weight is computed now"
    return ""


def _why_normed(module: Any) -> str:
    if isinstance(getattr(module, "norm", None), (nn.Identity, type(None))):
        return ""
    return f"norm is {type(module.norm).__name__} now"


def _why_dropped(module: Any, names: tuple[str, ...]) -> str:
    """What of its dropouts does more than nothing: those of these names by their rate, any that is
    of another class."""
    for name in DROPS:
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
    return _why_hooked(module, _BETWEEN)


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
