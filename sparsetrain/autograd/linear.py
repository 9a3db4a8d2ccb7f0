"""The three products of a linear layer whose weight is 2:4.

    forward      out_TO    = x_TI      @ w24_OI.T    sparse: w24
    grad input   grad_x_TI = grad_TO   @ w24_OI      sparse: w24.T (dense for `row` masks)
    grad weight  grad_w_OI = grad_TO.T @ x_TI        dense, or grad.T sparse along tokens (MVUE)

The gradient of the weight is that of w24, passed straight through to all of the weight. w24 is
packed beforehand (`pack_linear24`), once for as many products as the weight stays the same.

Dimension key:  T tokens   I input features   O output features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsetrain.autograd.operands import (
    Engine,
    dense_mm,
    engine_for,
    packed_rows,
    saved_weight,
    sparse_weight,
)
from sparsetrain.ops import column_sums, mvue24, unpack24
from sparsetrain.pattern import Rule

Packed = tuple[Any, ...]
"""A weight as its products want it: tensors, the first in the dtype of the products, or None. What
they are is the business of who made them."""


def linear24(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    rule: Rule = "transposable",
    mvue: bool = False,
    engine: Engine = "masked",
) -> Tensor:
    """`F.linear` with a weight that is 2:4, and the straight-through gradient for it.

    x: [..., I]; weight: [O, I], dense, the master copy; bias: [O] or None; returns [..., O].
    mask: bits [O, ceil(I/8)] as `ops.select24` gives them; None chooses them from |weight| now.
    rule: how the mask is, or was, chosen. All but `row` make grad input sparse as well.
    mvue: grad weight from an unbiased 2:4 sample of grad.T along tokens
        (Chmiel et al., ICLR 2023) instead of exactly.
    engine: `masked` (dense products with zeros), `native` (packed operands) or `aten` (packed,
        PyTorch's own products: compute capability 8.x); see `autograd.operands`.

    Under autocast the mask is chosen from the master weight and the products run in the
    autocast dtype. float32, float64, bfloat16, float16. Raises ValueError for features that are
    not a multiple of 4 (output features with `mvue` only) and for dtypes that differ outside
    autocast.
    """
    check_linear(x, weight, mvue)
    packed = pack_linear24(weight, mask, compute_dtype(x, weight), rule, engine)
    return packed_linear24(x, weight, bias, packed, rule=rule, mvue=mvue, engine=engine)


def pack_linear24(
    weight: Tensor,
    mask: Tensor | None,
    dtype: torch.dtype,
    rule: Rule,
    engine: Engine,
    into: Packed | None = None,
) -> Packed:
    """The weight of `packed_linear24`, in the dtype of its products. Arguments as `linear24`; into:
    what this returned before for the same arguments but values, to write into where it can."""
    return sparse_weight(weight.detach(), mask, rule, dtype, engine, into)


def packed_linear24(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: Packed,
    *,
    rule: Rule,
    mvue: bool,
    engine: Engine,
) -> Tensor:
    """`linear24` with what `pack_linear24` made of the weight, which only takes the gradient.

    The products run in the dtype of `packed`, under autocast or not.
    """
    check_linear(x, weight, mvue)
    x_TI = x.to(packed[0].dtype).flatten(0, -2)
    # Everything is in its dtype now; autocast would round some steps in another.
    with torch.autocast(x.device.type, enabled=False):
        out_TO = _Linear24.apply(x_TI, weight, bias, *packed, rule, mvue, engine)
    return out_TO.unflatten(0, x.shape[:-1])


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype the products run in: autocast's where it is on, else the weight's."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"x is {x.dtype} and weight {weight.dtype}: convert one, or run under torch.autocast"
        )
    return weight.dtype


def check_linear(x: Tensor, weight: Tensor, mvue: bool) -> None:
    """Refuse what does not multiply; under anomaly detection a weight that holds NaN."""
    if weight.ndim != 2 or x.ndim < 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)}: "
            "expected x [..., I] of at least 2 dimensions and weight [O, I]"
        )
    if mvue and weight.shape[0] % 4 != 0:
        raise ValueError(
            f"weight has {weight.shape[0]} output features, not a multiple of 4, which mvue=True "
            "needs: pass mvue=False"
        )
    check_weight(weight)


def check_weight(weight: Tensor) -> None:
    """Refuse a weight that holds NaN, under anomaly detection. Compiled code does not look."""
    if torch.compiler.is_compiling():
        return
    if torch.is_anomaly_enabled() and weight.isnan().any():
        raise ValueError(
            f"weight [{weight.shape[0]}, {weight.shape[1]}] holds {int(weight.isnan().sum())} NaN: "
            "a mask cannot be chosen from them"
        )


def grad_weight_from(
    grad_TO: Tensor, x_TI: Tensor, mvue: bool, engine: Engine, dtype: torch.dtype
) -> Tensor:
    """grad.T @ x, exactly or from an unbiased 2:4 sample of grad.T along tokens."""
    if not mvue:
        return dense_mm(grad_TO.T, x_TI, dtype)
    seed = torch.randint(0, 2**62, (1,), device=grad_TO.device)
    values_t, meta_t = mvue24(grad_TO, seed)
    if engine == "masked":
        return dense_mm(unpack24(values_t, meta_t)[:, : x_TI.shape[0]], x_TI, dtype)
    return packed_rows((values_t, meta_t), engine).mm(x_TI, dtype=dtype)


class _Linear24(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        *rest: Any,
    ) -> Tensor:
        *packed, rule, mvue, engine = rest
        engine = engine_for(engine, x_TI.dtype, x_TI.is_cuda)
        # x for grad weight; w24 as packed now, because the mask may be new by the backward.
        ctx.save_for_backward(x_TI, *packed)
        ctx.rule, ctx.mvue, ctx.engine = rule, mvue, engine
        ctx.weight_dtype = weight_OI.dtype
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        bias_O = None if bias_O is None else bias_O.to(x_TI.dtype)
        return saved_weight(packed, rule, engine).mm(x_TI.T, bias_O, transpose_out=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, *packed = ctx.saved_tensors
        w24 = saved_weight(packed, ctx.rule, ctx.engine)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = w24.t_mm(grad_TO.T, transpose_out=True)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_weight_from(grad_TO, x_TI, ctx.mvue, ctx.engine, ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = column_sums(grad_TO).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, *[None] * len(packed), None, None, None
