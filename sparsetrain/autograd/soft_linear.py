"""The three products of a linear layer whose weight is softly thresholded (S-STE).

    forward      out_TO    = x_TI      @ soft_OI.T   sparse: soft
    grad input   grad_x_TI = grad_TO   @ soft_OI     dense: soft is 2:4 along the input only
    grad weight  grad_w_OI = grad_TO.T @ x_TI        grad.T sparse along tokens (MVUE), or dense

soft = scale · S(weight); S is the soft threshold by the second smallest of every four along the
input, and its gradient passes straight through.

Source: Hu et al., NeurIPS 2024.

Dimension key:  T tokens   I input features   O output features
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsetrain.autograd.linear import Packed, check_linear, compute_dtype, grad_weight_from
from sparsetrain.autograd.operands import Engine, engine_for, packed_rows
from sparsetrain.ops import column_sums, pack24, select24, soft_threshold24


def soft_linear24(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    *,
    mvue: bool = True,
    engine: Engine = "masked",
) -> Tensor:
    """`F.linear` with the weight scale · S(weight) of S-STE.

    Shapes and dtypes as `linear24`; scale: float32 [1], fixed at the start of training. Grad
    input is a dense product, grad weight MVUE or dense.
    """
    check_linear(x, weight, mvue)
    packed = pack_soft_linear24(weight, scale, compute_dtype(x, weight), engine)
    return packed_soft_linear24(x, weight, bias, packed, mvue=mvue, engine=engine)


def pack_soft_linear24(weight: Tensor, scale: Tensor, dtype: torch.dtype, engine: Engine) -> Packed:
    """The weight of `packed_soft_linear24`: soft in `dtype`, and packed unless masked."""
    soft_OI = soft_threshold24(weight.detach(), scale.float()).to(dtype)
    if engine_for(engine, dtype, weight.is_cuda) == "masked":
        return (soft_OI,)
    return soft_OI, *pack24(soft_OI, select24(soft_OI, "row"))


def packed_soft_linear24(
    x: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed, *, mvue: bool, engine: Engine
) -> Tensor:
    """`soft_linear24` with what `pack_soft_linear24` made of the weight."""
    check_linear(x, weight, mvue)
    x_TI = x.to(packed[0].dtype).flatten(0, -2)
    with torch.autocast(x.device.type, enabled=False):
        out_TO = _SoftLinear24.apply(x_TI, weight, bias, *packed, mvue, engine)
    return out_TO.unflatten(0, x.shape[:-1])


class _SoftLinear24(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        soft_OI: Tensor,
        *rest: Any,
    ) -> Tensor:
        *packed, mvue, engine = rest
        ctx.save_for_backward(x_TI, soft_OI)
        ctx.mvue, ctx.engine = mvue, engine_for(engine, x_TI.dtype, x_TI.is_cuda)
        ctx.weight_dtype, ctx.n_packed = weight_OI.dtype, len(packed)
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        bias_O = None if bias_O is None else bias_O.to(x_TI.dtype)
        if not packed:
            return F.linear(x_TI, soft_OI, bias_O)
        return packed_rows(packed, ctx.engine).mm(x_TI.T, bias_O, transpose_out=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, soft_OI = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_TO @ soft_OI
        if ctx.needs_input_grad[1]:
            grad_weight = grad_weight_from(grad_TO, x_TI, ctx.mvue, ctx.engine, ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = column_sums(grad_TO).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, *[None] * ctx.n_packed, None, None
