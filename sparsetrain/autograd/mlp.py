"""The six products of an MLP with squared ReLU whose hidden activations are 2:4.

    forward      z_TH   = x_TI    @ w1_HI.T      sparse: w1, where it has a mask
                 h24_TH = 2:4 of relu(z)²        along features and along tokens
                 y_TO   = h24_TH  @ w2_OH.T      sparse: h24
    backward     dh_TH  = dy_TO   @ w2_OH        sparse: w2.T, where it has a mask
                 dz24   = 2 sqrt(h24) dh         at the positions of h24
                 dx_TI  = dz24_TH @ w1_HI        sparse: dz24
                 dw2_OH = dy_TO.T @ h24_TH       sparse: h24.T, along tokens
                 dw1_HI = dz24.T  @ x_TI         sparse: dz24.T, along tokens

Four of the six are sparse with dense weights ("activations"), all six with masks for both
("all"). A sparse tensor core multiplies sparse by dense, so where the activation is the sparse
operand a masked weight enters as a dense tensor with zeros.

Source: Haziza et al. 2025 (activation 2:4 with squared ReLU, per-orientation masks).

Dimension key:  T tokens   I input   H hidden   O output features
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsetrain.autograd.linear import compute_dtype
from sparsetrain.autograd.operands import (
    Engine,
    engine_for,
    saved_operand,
    sparse_squared_relu,
    sparse_weight,
)
from sparsetrain.ops import mask24
from sparsetrain.pattern import Rule


def squared_relu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    mask1: Tensor | None = None,
    mask2: Tensor | None = None,
    rule: Rule = "transposable",
    engine: Engine = "masked",
) -> Tensor:
    """`relu(x @ w1.T + b1)² @ w2.T + b2` with 2:4 hidden activations.

    x: [..., I]; w1: [H, I]; w2: [O, H]; biases [H] and [O] or None; returns [..., O].
    mask1, mask2: transposable masks of the weights (bits, as `ops.select24`), None for dense.
    rule: `row` gives each orientation of the activations its own best mask; the others serve both
        with one mask on tiles of 4 tokens × 4 features.
    Raises ValueError for hidden features, or input features under mask1, that are not a multiple
    of 4.
    """
    if x.ndim < 2 or x.shape[-1] != w1.shape[1] or w1.shape[0] != w2.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, w1 {tuple(w1.shape)}, w2 {tuple(w2.shape)}: "
            "expected [..., I] of at least 2 dimensions, [H, I] and [O, H]"
        )
    dtype = compute_dtype(x, w1)
    x_TI = x.to(dtype).flatten(0, -2)
    b1 = None if b1 is None else b1.to(dtype)
    b2 = None if b2 is None else b2.to(dtype)
    # Everything is in its dtype now; autocast would square in float32.
    with torch.autocast(x.device.type, enabled=False):
        y_TO = _SquaredReluMlp24.apply(x_TI, w1, b1, w2, b2, mask1, mask2, rule, engine)
    return y_TO.unflatten(0, x.shape[:-1])


class _SquaredReluMlp24(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        w1_HI: Tensor,
        b1_H: Tensor | None,
        w2_OH: Tensor,
        b2_O: Tensor | None,
        mask1: Tensor | None,
        mask2: Tensor | None,
        rule: Rule,
        engine: Engine,
    ) -> Tensor:
        dtype = x_TI.dtype
        engine = engine_for(engine, x_TI)
        if mask1 is None:
            dense1_HI = w1_HI.to(dtype)
            z_TH = F.linear(x_TI, dense1_HI, b1_H)
        else:
            dense1_HI = mask24(w1_HI, mask1).to(dtype)
            w24 = sparse_weight(w1_HI, mask1, "transposable", dtype, engine)
            z_TH = w24.mm(x_TI.T, b1_H, transpose_out=True)
        h24 = sparse_squared_relu(z_TH, rule, engine)
        # The backward needs w2 as the sparse operand where it has a mask, else dense.
        if mask2 is None:
            dense2_OH = w2_OH.to(dtype)
            saved2 = (dense2_OH,)
        else:
            dense2_OH = mask24(w2_OH, mask2).to(dtype)
            saved2 = sparse_weight(w2_OH, mask2, "transposable", dtype, engine)
        # h24 stands in for z: sqrt(h24) is relu(z) where it is kept.
        ctx.save_for_backward(x_TI, dense1_HI, *h24, *saved2)
        ctx.rule, ctx.engine = rule, engine
        ctx.n_h, ctx.sparse2 = len(h24), mask2 is not None
        ctx.weight_dtypes = w1_HI.dtype, w2_OH.dtype
        return h24.mm(dense2_OH.T, b2_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, dense1_HI, *rest = ctx.saved_tensors
        h24, saved2 = saved_operand(rest[: ctx.n_h], ctx.engine), rest[ctx.n_h :]
        if ctx.sparse2:
            dh_TH = saved_operand(saved2, ctx.engine).t_mm(dy_TO.T, transpose_out=True)
        else:
            dh_TH = dy_TO @ saved2[0]
        dz24, dz_sums_H = h24.squared_relu_backward(dh_TH, ctx.rule)
        dx_TI = dz24.mm(dense1_HI) if ctx.needs_input_grad[0] else None
        dw1_HI = dz24.t_mm(x_TI).to(ctx.weight_dtypes[0]) if ctx.needs_input_grad[1] else None
        db1_H = dz_sums_H.to(dy_TO.dtype) if ctx.needs_input_grad[2] else None
        dw2_OH = None
        if ctx.needs_input_grad[3]:
            dw2_OH = h24.t_mm(dy_TO, transpose_out=True).to(ctx.weight_dtypes[1])
        db2_O = dy_TO.sum(0) if ctx.needs_input_grad[4] else None
        return dx_TI, dw1_HI, db1_H, dw2_OH, db2_O, None, None, None, None
