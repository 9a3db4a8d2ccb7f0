"""Trying whether an MLP computes fc2(act(fc1(x))) and nothing else."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.nn.activations import act_of, put_act
from sparsetrain.nn.calls import Calls
from sparsetrain.nn.phase import evaluating
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.swap import with_class


@torch.no_grad()
def why_not_equal(module: Any) -> str:
    """Why the forward of an MLP is not fc2(act(fc1(x))); empty if it is.

    On a few numbers, in training and in evaluation, it gives the same output and gradient, and runs
    the same ops: one more, as of `x.clamp(-500, 500)` or of `if x.max() > 500`, may do something to
    other numbers. What it does for a dtype, a device or a shape that is not tried is not seen.
    """
    weight = module.fc1.weight
    devices = [weight.device] if weight.is_cuda else []
    with evaluating(module), torch.random.fork_rng(devices=devices):
        unreadable = weight.is_meta or is_sharded(weight)
        probe: Any = _real(module) if unreadable else with_class(module, type(module))
        for name, child in probe.named_children():
            if isinstance(child, nn.Dropout):  # what stands for drop2 shows where that is called
                probe._modules[name] = nn.LeakyReLU(0.5) if name == "drop2" else nn.Identity()
        put_act(probe, copy.deepcopy(act_of(module)))  # it may count what it sees
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
                expected, grad, ops = _with_gradient(_plain, probe.train(training), x)
                random, kept = torch.get_rng_state(), _kept(probe)
                # Not called, so that its own hooks do not run; they are kept.
                y, grad_y, ops_y = _with_gradient(type(probe).forward, probe, x)
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
            if more := sorted(ops_y - ops):
                return f"its forward runs ops that fc2(act(fc1(x))) does not: {', '.join(more)}"
            tried += 1
    return (_why_channels_first(probe, weight) or _why_settings(probe, weight)) if tried else why


def _kept(probe: Any) -> dict[str, int]:
    containers = (list, dict, set)
    return {n: len(v) if isinstance(v, containers) else id(v) for n, v in vars(probe).items()}


def _plain(probe: Any, x: Tensor) -> Tensor:
    h = act_of(probe)(F.linear(x, probe.fc1.weight, probe.fc1.bias))
    y = F.linear(h, probe.fc2.weight, probe.fc2.bias)
    return y if getattr(probe, "drop2", None) is None else probe.drop2(y)


def _with_gradient(
    forward: Callable[[Any, Tensor], Any], probe: Any, x: Tensor
) -> tuple[Any, Tensor | None, Counter[str]]:
    """The output; the gradient of its sum for x, None where none reaches it; the ops of both."""
    with torch.enable_grad(), Calls() as calls:
        y, grad = forward(probe, x.requires_grad_()), None
        if isinstance(y, Tensor) and y.requires_grad:
            grad = torch.autograd.grad(y.sum(), x, allow_unused=True)[0]
            y = y.detach()
    return y, grad, calls.counts()


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
