"""Whether a module computes fc2(act(fc1(x))) and nothing else, so that it can be one function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.phase import evaluating
from sparsetrain.nn.sharded import is_sharded, is_wrapped
from sparsetrain.nn.swap import with_class

_KNOWN = {"fc1", "act", "drop1", "norm", "fc2", "drop2", "drop"}
_BETWEEN = ("fc1", "act", "drop1", "norm", "drop", "fc2")
DROPS = ("drop1", "drop")
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_mlp(module: nn.Module) -> bool:
    """Whether the module has the children of timm's `Mlp`: fc1, act, fc2."""
    return all(isinstance(getattr(module, n, None), nn.Module) for n in ("fc1", "act", "fc2"))


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
    others = [name for name, _ in module.named_children() if name not in _KNOWN]
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
    return why_not_called(module) or _why_not_equal(module)


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
    if type(module.act) is not act:
        return f"act is {type(module.act).__name__} now"
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


def _why_hooked(module: nn.Module, names: tuple[str, ...]) -> str:
    for name in names:
        child = getattr(module, name, None)
        if any(getattr(child, kind, None) for kind in _HOOKS):
            return f"{name} has hooks, which would not run"
        if "forward" in getattr(child, "__dict__", ()):
            return f"{name}.forward was replaced on the instance, which would not run"
    return ""


@torch.no_grad()
def _why_not_equal(module: Any) -> str:
    """Why its forward is not that of its children, on a few numbers, in training and evaluation."""
    weight = module.fc1.weight
    devices = [weight.device] if weight.is_cuda else []
    with evaluating(module), torch.random.fork_rng(devices=devices):
        unreadable = weight.is_meta or is_sharded(weight)
        probe: Any = _real(module) if unreadable else with_class(module, type(module))
        for name, child in probe.named_children():
            if isinstance(child, nn.Dropout):  # what stands for drop2 shows where that is called
                probe._modules[name] = nn.LeakyReLU(0.5) if name == "drop2" else nn.Identity()
        probe._modules["act"] = copy.deepcopy(module.act)  # it may count what it sees
        return _first_difference(probe, probe.fc1.weight)


def _first_difference(probe: Any, weight: Tensor) -> str:
    if more := list(inspect.signature(type(probe).forward).parameters)[2:]:
        return f"its forward takes more than x: {', '.join(more)}"
    tried, why = 0, "its forward takes no [..., features]"
    sizes = weight.new_tensor([[0.01], [1.0], [100.0]])  # what clamps does so to large numbers
    for shape in ((3,), (2, 3), (2, 2, 3)):
        x = weight.new_empty(*shape, probe.fc1.in_features).normal_() * sizes
        for training in (True, False):
            try:
                expected, grad = _with_gradient(_plain, probe.train(training), x)
                random, kept = torch.get_rng_state(), _kept(probe)
                # Not called, so that its own hooks do not run; they are kept.
                y, grad_y = _with_gradient(type(probe).forward, probe, x)
            except Exception as error:  # anybody's code; the report names it
                why = f"its forward raises {type(error).__name__} for {list(x.shape)}"
                break
            if not isinstance(y, Tensor) or not torch.equal(y, expected):
                return "its forward is not fc2(act(fc1(x)))"
            if grad_y is None or grad is None or not torch.equal(grad_y, grad):
                return "its backward is not that of fc2(act(fc1(x)))"
            if not torch.equal(torch.get_rng_state(), random):
                return "its forward draws random numbers"
            if _kept(probe) != kept:
                return "its forward keeps what it saw in attributes"
            tried += 1
    return (_why_channels_first(probe, weight) or _why_settings(probe, weight)) if tried else why


def _kept(probe: Any) -> dict[str, int]:
    containers = (list, dict, set)
    return {n: len(v) if isinstance(v, containers) else id(v) for n, v in vars(probe).items()}


def _plain(probe: Any, x: Tensor) -> Tensor:
    h = probe.act(F.linear(x, probe.fc1.weight, probe.fc1.bias))
    y = F.linear(h, probe.fc2.weight, probe.fc2.bias)
    return y if getattr(probe, "drop2", None) is None else probe.drop2(y)


def _with_gradient(
    forward: Callable[[Any, Tensor], Any], probe: Any, x: Tensor
) -> tuple[Any, Tensor | None]:
    """The output, and the gradient of its sum for x; None where none reaches it."""
    with torch.enable_grad():
        y = forward(probe, x.requires_grad_())
        if not isinstance(y, Tensor) or not y.requires_grad:
            return y, None
        return y.detach(), torch.autograd.grad(y.sum(), x, allow_unused=True)[0]


def _why_channels_first(probe: Any, weight: Tensor) -> str:
    x = weight.new_zeros(1, probe.fc1.in_features, 3, 5)  # features are a multiple of 4
    try:
        type(probe).forward(probe, x)
    except Exception:  # as it should
        return ""
    return "its forward takes channels first too"


def _why_settings(probe: Any, weight: Tensor) -> str:
    """That a number or a flag of its own changes what it computes, as it may in training."""
    x = weight.new_empty(3, probe.fc1.in_features).normal_()
    expected = _plain(probe.train(), x)
    own = {n: v for n, v in vars(probe).items() if n != "training" and type(v) in (float, bool)}
    for name, value in own.items():
        setattr(probe, name, value + 0.5 if isinstance(value, float) else not value)
        try:
            y = type(probe).forward(probe, x)
        except Exception:  # a value that its forward refuses
            y = expected
        setattr(probe, name, value)
        if not isinstance(y, Tensor) or not torch.equal(y, expected):
            return f"its forward depends on {name}"
    return ""


def _real(module: nn.Module) -> nn.Module:
    """A copy on the CPU with numbers of its own, of a module on the meta device or sharded."""
    new = with_class(module, type(module))
    for name, parameter in module.named_parameters(recurse=False):
        numbers = 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)
        new._parameters[name] = nn.Parameter(numbers)
    for name, buffer in module.named_buffers(recurse=False):
        whole = torch.zeros(buffer.shape, dtype=buffer.dtype) if buffer.is_meta else buffer
        new._buffers[name] = whole.cpu()
    for name, child in module._modules.items():
        new._modules[name] = None if child is None else _real(child)
    return new
