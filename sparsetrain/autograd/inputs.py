"""What composites ask of their inputs, shapes, dtypes and weights without NaN; and run on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype the products run in: autocast's where it is on, else the weight's.

    float64 is not autocast, as in PyTorch. Raises ValueError where x and weight then differ, and
    for a weight in 8 bits.
    """
    if weight.dtype.itemsize == 1:
        raise ValueError(
            f"weight is {weight.dtype}, which optimizers do not update: keep it in float32, "
            "bfloat16 or float16; Sparsity(format=sparsetrain.FP8()) multiplies in 8 bits"
        )
    device, double = autocast_device(x), torch.float64 in (x.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and not double:
        return torch.get_autocast_dtype(device)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"x is {x.dtype} and weight {weight.dtype}: convert one"
            + ("" if double else ", or run under torch.autocast")
        )
    return weight.dtype


def autocast_device(x: Tensor) -> str:
    """The device of x as autocast calls it, which knows no meta device."""
    return "cpu" if x.is_meta else x.device.type


def by_rows(
    function: type[torch.autograd.Function], x: Tensor, dtype: torch.dtype, *given: Any
) -> Tensor:
    """function of x [..., I] as rows [T, I] in `dtype` and what else is given, as [..., O].

    A vector is one row. The function runs outside autocast, which would round some steps in another
    dtype, and square in float32.
    """
    check_transforms()
    x_TI = x.to(dtype).flatten(0, -2) if x.ndim > 1 else x.to(dtype)[None]
    with torch.autocast(autocast_device(x), enabled=False):
        y_TO = function.apply(x_TI, *given)
    return y_TO.unflatten(0, x.shape[:-1]) if x.ndim > 1 else y_TO[0]


def once(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A backward without a derivative of its own: to differentiate its gradients raises.

    `once_differentiable` returns constants where the gradient that comes in is one, as that of a
    sum. A gradient penalty then misses terms in silence.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            given = backward(ctx, *grads)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return given
        return _Last.apply(*[g if g is None else g.detach().requires_grad_() for g in given])

    return wrapped


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return gradients

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            "gradients of sparse products cannot be differentiated again (gradient penalties, "
            "MAML, Hessians): exclude these layers from the sparsity, or use first-order gradients"
        )


def check_transforms() -> None:
    """Refuse torch.func's transforms, which the gradients are not written for."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "torch.func (grad, vmap, jvp) does not transform sparse products: use autograd and "
            "batches, or densify(model) first"
        )


def check_mlp(x: Tensor, w1: Tensor, w2: Tensor) -> None:
    """Refuse what does not multiply; under anomaly detection weights that hold NaN."""
    if x.ndim < 1 or x.shape[-1] != w1.shape[1] or w1.shape[0] != w2.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, w1 {tuple(w1.shape)}, w2 {tuple(w2.shape)}: "
            "expected [..., I], [H, I] and [O, H]"
        )
    check_weight(w1)
    check_weight(w2)


def check_weight(weight: Tensor) -> None:
    """Refuse a weight that holds NaN, under anomaly detection. Compiled code does not look."""
    if torch.compiler.is_compiling():
        return
    if torch.is_anomaly_enabled() and weight.isnan().any():
        raise ValueError(
            f"weight [{weight.shape[0]}, {weight.shape[1]}] holds {int(weight.isnan().sum())} NaN: "
            "a mask cannot be chosen from them"
        )
