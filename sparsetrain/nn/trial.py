"""Trying whether an MLP computes fc2(act(fc1(x))) and nothing else."""

from __future__ import annotations

import copy
import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.nn.calls import Calls
from sparsetrain.nn.phase import evaluating
from sparsetrain.nn.roles import act_of, after_of, fc1_of, fc2_of, known_roles, normed, put_act
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.swap import with_class


@torch.inference_mode(False)
@torch.no_grad()
def why_not_equal(module: Any) -> str:
    """Why the forward of an MLP is not fc2(act(fc1(x))); empty if it is.

    On a few numbers, in training and in evaluation, it gives the same output and gradient, and runs
    the same ops: one more, as of `x.clamp(-500, 500)` or of `if x.max() > 500`, may do something to
    other numbers. Without gradients and in autocast it gives the same output. What it does for a
    dtype, a device or a shape that is not tried is not seen.
    """
    weight, roles = fc1_of(module).weight, known_roles(module)
    devices = [weight.device] if weight.is_cuda else []
    with evaluating(module), torch.random.fork_rng(devices=devices):
        tells = _tells(weight) and _tells(fc2_of(module).weight)
        probe: Any = with_class(module, type(module)) if tells else _real(module)
        probe.roles = roles
        for name, child in probe.named_children():
            if isinstance(child, nn.Dropout):  # what stands for the last shows where that is called
                probe._modules[name] = nn.LeakyReLU(0.5) if name == roles.after else nn.Identity()
        try:
            act = copy.deepcopy(act_of(probe))  # it may count what it sees
        except Exception as error:  # anybody's code; the report names it
            return f"copying its activation raises {type(error).__name__}"
        act.register_forward_hook(_mark)
        put_act(probe, act)
        return _first_difference(probe, fc1_of(probe).weight)


def _tells(weight: Tensor) -> bool:
    """Whether outputs say what a weight was multiplied by: it is here, not zero, and finite."""
    if weight.is_meta or weight.is_inference() or is_sharded(weight):
        return False
    return 0 < float(weight.float().norm()) < math.inf


def _mark(act: nn.Module, args: Any, y: Tensor) -> Tensor:
    """Another output of the activation, which shows that it was called, and whether in autocast
    for GPUs."""
    return y + 1 + torch.is_autocast_enabled("cuda")


def _first_difference(probe: Any, weight: Tensor) -> str:
    if more := list(inspect.signature(type(probe).forward).parameters)[2:]:
        return f"its forward takes more than x: {', '.join(more)}"
    tried, why = None, "its forward takes no [..., features]"
    sizes = weight.new_tensor([[0.01], [1.0], [100.0]])  # what clamps does so to large numbers
    for shape in ((3,), (2, 3), (2, 2, 3)):
        x = weight.new_empty(*shape, fc1_of(probe).in_features).normal_() * sizes
        for training in (True, False):
            try:
                expected, grad, ops = _with_gradient(_plain, probe.train(training), x)
                random, kept = torch.get_rng_state(), _kept(probe)
                # Not called, so that its own hooks do not run; they are kept.
                y, grad_y, ops_y = _with_gradient(type(probe).forward, probe, x)
            except Exception as error:  # anybody's code; the report names it
                why = f"its forward raises {type(error).__name__} for {list(x.shape)}"
                break
            if not _same(y, expected):
                return "its forward is not fc2(act(fc1(x)))"
            if grad_y is None or grad is None or not torch.equal(grad_y, grad):
                return "its backward is not that of fc2(act(fc1(x)))"
            if not torch.equal(torch.get_rng_state(), random):
                return "its forward draws random numbers"
            if _kept(probe) != kept:
                return "its forward keeps what it saw in attributes"
            if more := sorted(ops_y - ops):
                return f"its forward runs ops that fc2(act(fc1(x))) does not: {', '.join(more)}"
            tried = x.detach()
    if tried is None:
        return why
    return (
        _why_channels_first(probe, weight)
        or _why_surroundings(probe, tried)
        or _why_settings(probe, tried)
    )


def _kept(probe: Any) -> dict[str, Any]:
    """What its attributes are, and what lists, dicts and sets among them hold."""
    return {name: _identity(value) for name, value in vars(probe).items()}


def _identity(value: Any) -> Any:
    held = value.values() if isinstance(value, dict) else value
    return [id(v) for v in held] if isinstance(value, (list, dict, set)) else id(value)


def _plain(probe: Any, x: Tensor) -> Tensor:
    fc1, fc2, after, x = fc1_of(probe), fc2_of(probe), after_of(probe), normed(probe, x)
    y = F.linear(act_of(probe)(F.linear(x, fc1.weight, fc1.bias)), fc2.weight, fc2.bias)
    return y if after is None else after(y)


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
    x = weight.new_zeros(1, fc1_of(probe).in_features, 3, 5)  # features are a multiple of 4
    try:
        type(probe).forward(probe, x)
    except Exception:  # as it should
        return ""
    return "its forward takes channels first too"


def _why_surroundings(probe: Any, x: Tensor) -> str:
    if not _runs_plain(probe.eval(), x):
        return "its forward is another one without gradients"
    was = torch.is_autocast_enabled("cuda")
    with torch.autocast(x.device.type, torch.bfloat16):
        torch.set_autocast_enabled("cuda", True)  # a CPU model may name the GPU it will be on
        try:
            return "" if _runs_plain(probe, x) else "its forward is another one in autocast"
        finally:
            torch.set_autocast_enabled("cuda", was)


def _runs_plain(probe: Any, x: Tensor) -> bool:
    try:
        return _same(type(probe).forward(probe, x), _plain(probe, x))
    except Exception:  # anybody's code
        return False


def _why_settings(probe: Any, x: Tensor) -> str:
    """That a number or a flag of its own changes what it computes, as it may in training."""
    expected = _plain(probe.train(), x)
    numbers = {name: v for name, v in vars(probe).items() if type(v) in (float, int, bool)}
    own = {name: v for name, v in numbers.items() if name != "training"}
    for name, value in own.items():
        other = value + (0.5 if isinstance(value, float) else 2)  # a rate, or a number of times
        setattr(probe, name, not value if isinstance(value, bool) else other)
        try:
            y = type(probe).forward(probe, x)
        except Exception:  # a value that its forward refuses
            y = expected
        setattr(probe, name, value)
        if not _same(y, expected):
            return f"its forward depends on {name}"
    return ""


def _same(y: Any, expected: Tensor) -> bool:
    return isinstance(y, Tensor) and y.dtype == expected.dtype and torch.equal(y, expected)


def _real(module: nn.Module) -> nn.Module:
    """A copy on the CPU with numbers of its own, of a module whose weights do not tell."""
    new = with_class(module, type(module))
    for name, parameter in module.named_parameters(recurse=False):
        numbers = 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype, device="cpu")
        new._parameters[name] = nn.Parameter(numbers)
    for name, buffer in module.named_buffers(recurse=False):
        whole = (
            torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")
            if buffer.is_meta
            else buffer
        )
        new._buffers[name] = whole.cpu()
    for name, child in module._modules.items():
        new._modules[name] = None if child is None else _real(child)
    return new
