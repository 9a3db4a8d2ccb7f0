"""The six products of an MLP with GELU whose weights are 2:4.

    forward      z_TH   = x_TI    @ w1_HI.T      sparse: w1
                 h_TH   = gelu(z)
                 y_TO   = h_TH    @ w2_OH.T      sparse: w2
    backward     dh_TH  = dy_TO   @ w2_OH        sparse: w2.T (dense for `row` masks)
                 dz_TH  = gelu'(z) dh            with h again, and its sums over tokens
                 dx_TI  = dz_TH   @ w1_HI        sparse: w1.T (dense for `row` masks)
                 dw2_OH = dy_TO.T @ h_TH         dense
                 dw1_HI = dz_TH.T @ x_TI         dense

The numbers are those of two `linear24` and `F.gelu`. As one function the backward reads z once for
the gradient, the activation and the gradient of b1, and keeps no h.

Dimension key:  T tokens   I input   H hidden   O output features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsetrain.autograd.linear import Packed, compute_dtype
from sparsetrain.autograd.mlp import check_mlp
from sparsetrain.autograd.operands import (
    Engine,
    WeightOperand,
    dense_mm,
    engine_for,
    saved_weight,
    sparse_weight,
)
from sparsetrain.ops import column_sums, gelu, gelu_backward
from sparsetrain.pattern import Rule
from sparsetrain.reference.gelu import Approximate


def gelu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    mask1: Tensor | None = None,
    mask2: Tensor | None = None,
    rule: Rule = "transposable",
    approximate: Approximate = "none",
    engine: Engine = "masked",
) -> Tensor:
    """`gelu(x @ w1.T + b1) @ w2.T + b2` with 2:4 weights, and straight-through gradients for them.

    x: [..., I]; w1: [H, I]; w2: [O, H]; biases [H] and [O] or None; returns [..., O].
    mask1, mask2: bits as `ops.select24` gives them; None chooses them from |weight| now.
    rule: how the masks are, or were, chosen. All but `row` make dh and dx sparse as well.
    approximate: as in `F.gelu`.

    Under autocast the masks are chosen from the master weights and all of it runs in the autocast
    dtype. Raises ValueError for input or hidden features that are not a multiple of 4, and for
    dtypes that differ outside autocast.
    """
    check_mlp(x, w1, w2)
    packed = pack_gelu_mlp24(w1, w2, mask1, mask2, compute_dtype(x, w1), rule, engine)
    return packed_gelu_mlp24(
        x, w1, b1, w2, b2, packed, rule=rule, approximate=approximate, engine=engine
    )


def pack_gelu_mlp24(
    w1: Tensor,
    w2: Tensor,
    mask1: Tensor | None,
    mask2: Tensor | None,
    dtype: torch.dtype,
    rule: Rule,
    engine: Engine,
    into: Packed | None = None,
) -> Packed:
    """The weights of `packed_gelu_mlp24` in the dtype of its products, one after the other: what
    `pack_linear24` makes of each."""
    into1, into2 = (None, None) if into is None else _halves(into)
    return (
        *sparse_weight(w1.detach(), mask1, rule, dtype, engine, into1),
        *sparse_weight(w2.detach(), mask2, rule, dtype, engine, into2),
    )


def packed_gelu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    packed: Packed,
    *,
    rule: Rule,
    approximate: Approximate = "none",
    engine: Engine,
) -> Tensor:
    """`gelu_mlp24` with what `pack_gelu_mlp24` made of the weights, which only take the
    gradients."""
    check_mlp(x, w1, w2)
    x_TI = x.to(packed[0].dtype).flatten(0, -2)
    # Everything is in its dtype now; autocast would round some steps in another.
    with torch.autocast(x.device.type, enabled=False):
        y_TO = _GeluMlp24.apply(x_TI, w1, b1, w2, b2, *packed, rule, approximate, engine)
    return y_TO.unflatten(0, x.shape[:-1])


def _halves(packed: Any) -> tuple[Any, Any]:
    return packed[: len(packed) // 2], packed[len(packed) // 2 :]


def _weights(packed: Any, rule: Rule, engine: Engine) -> tuple[WeightOperand, WeightOperand]:
    first, second = _halves(packed)
    return saved_weight(first, rule, engine), saved_weight(second, rule, engine)


class _GeluMlp24(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        w1_HI: Tensor,
        b1_H: Tensor | None,
        w2_OH: Tensor,
        b2_O: Tensor | None,
        *rest: Any,
    ) -> Tensor:
        *packed, rule, approximate, engine = rest
        dtype = x_TI.dtype
        engine = engine_for(engine, dtype, x_TI.is_cuda)
        # x for dw1; z, of which the backward makes h again, for dw2 and the slope of GELU; the
        # weights as packed now, because the masks may be new by the backward.
        ctx.rule, ctx.approximate, ctx.engine = rule, approximate, engine
        ctx.dtypes = [None if t is None else t.dtype for t in (w1_HI, b1_H, w2_OH, b2_O)]
        b1_H = None if b1_H is None else b1_H.to(dtype)
        b2_O = None if b2_O is None else b2_O.to(dtype)
        w1_24, w2_24 = _weights(packed, rule, engine)
        z_TH = w1_24.mm(x_TI.T, b1_H, transpose_out=True)
        ctx.save_for_backward(x_TI, z_TH, *packed)
        return w2_24.mm(gelu(z_TH, approximate).T, b2_O, transpose_out=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, z_TH, *packed = ctx.saved_tensors
        w1_24, w2_24 = _weights(packed, ctx.rule, ctx.engine)
        needs, dtypes = ctx.needs_input_grad, ctx.dtypes
        dx_TI = dw1_HI = db1_H = dw2_OH = db2_O = h_TH = None
        if any(needs[:3]):
            dh_TH = w2_24.t_mm(dy_TO.T, transpose_out=True)
            dz_TH, h_TH, dz_sums_H = gelu_backward(dh_TH, z_TH, ctx.approximate)
            dx_TI = w1_24.t_mm(dz_TH.T, transpose_out=True) if needs[0] else None
            dw1_HI = dense_mm(dz_TH.T, x_TI, dtypes[0]) if needs[1] else None
            db1_H = dz_sums_H.to(dtypes[1]) if needs[2] else None
        if needs[3]:
            h_TH = gelu(z_TH, ctx.approximate) if h_TH is None else h_TH
            dw2_OH = dense_mm(dy_TO.T, h_TH, dtypes[2])
        if needs[4]:
            db2_O = column_sums(dy_TO).to(dtypes[3])
        return dx_TI, dw1_HI, db1_H, dw2_OH, db2_O, *[None] * len(packed), None, None, None
