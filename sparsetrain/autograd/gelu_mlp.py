"""The six products of an MLP with GELU whose weights are 2:4.

    forward      z_TH   = x_TI    @ w1_HI.T      sparse: w1
                 h_TH   = gelu(z)
                 y_TO   = h_TH    @ w2_OH.T      sparse: w2
    backward     dh_TH  = dy_TO   @ w2_OH        sparse: w2.T, where its columns are packed
                 dz_TH  = gelu'(z) dh            with h again, and its sums over tokens
                 dx_TI  = dz_TH   @ w1_HI        sparse: w1.T, where its columns are packed
                 dw2_OH = dy_TO.T @ h_TH         dense
                 dw1_HI = dz_TH.T @ x_TI         dense

The numbers are those of two `linear24` and `F.gelu`. As one function the backward reads z once for
the gradient, the activation and the gradient of b1, and keeps no h. In fp8 the passes over z write
h and dz in 8 bits too, and the forward no other h.

Dimension key:  T tokens   I input   H hidden   O output features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsetrain.autograd.inputs import by_rows, check_mlp, once
from sparsetrain.ops import column_sums, gelu, gelu_backward
from sparsetrain.products import Packed, dense_mm
from sparsetrain.reference.gelu import Approximate

_FIELDS = len(Packed._fields)


def packed_gelu_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    packed1: Packed,
    packed2: Packed,
    *,
    approximate: Approximate = "none",
) -> Tensor:
    """`gelu(x @ packed1.T + b1) @ packed2.T + b2`; the gradients of the packed weights go to w1
    and w2.

    x: [..., I]; w1: [H, I]; w2: [O, H]; biases [H] and [O] or None; returns [..., O].
    approximate: as in `F.gelu`.
    """
    check_mlp(x, w1, w2)
    return by_rows(_GeluMlp, x, packed1.dtype, w1, b1, w2, b2, approximate, *packed1, *packed2)


class _GeluMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        w1_HI: Tensor,
        b1_H: Tensor | None,
        w2_OH: Tensor,
        b2_O: Tensor | None,
        approximate: Approximate,
        *packed: Any,
    ) -> Tensor:
        w1_24, w2_24 = Packed(*packed[:_FIELDS]), Packed(*packed[_FIELDS:])
        dtype, ctx.dtypes = x_TI.dtype, (w1_HI.dtype, w2_OH.dtype)
        ctx.specs, ctx.approximate = (w1_24.spec, w2_24.spec), approximate
        b1_H = None if b1_H is None else b1_H.to(dtype)
        b2_O = None if b2_O is None else b2_O.to(dtype)
        z_TH = w1_24.mm(x_TI.T, b1_H, transpose_out=True)
        # x is for dw1. From z the backward recomputes h for dw2, and the slope of GELU. The packed
        # weights are for dx and dh, as they are now.
        saved = *w1_24.for_t_mm().tensors, *w2_24.for_t_mm().tensors
        ctx.save_for_backward(x_TI, z_TH, *saved)
        format = w2_24.format
        h = gelu(z_TH, approximate).T if format is None else format.gelu(z_TH, approximate)
        return w2_24.mm(h, b2_O, transpose_out=True)

    @staticmethod
    @once
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, z_TH, *saved = ctx.saved_tensors
        w1_24 = Packed(ctx.specs[0], *saved[: _FIELDS - 1])
        w2_24 = Packed(ctx.specs[1], *saved[_FIELDS - 1 :])
        needs, dtypes = ctx.needs_input_grad, ctx.dtypes
        dx_TI = dw1_HI = db1_H = dw2_OH = h_TH = None
        if any(needs[:3]):
            dh_TH = w2_24.t_mm(dy_TO.T, transpose_out=True)
            format = w1_24.format_t if needs[0] else None
            if format is None:
                dz_TH, h_TH, dz_sums_H = gelu_backward(dh_TH, z_TH, ctx.approximate)
                dz = dz_TH.T
            else:
                dz_TH, h_TH, dz_sums_H, dz = format.gelu_backward(dh_TH, z_TH, ctx.approximate)
            dx_TI = w1_24.t_mm(dz, transpose_out=True) if needs[0] else None
            dw1_HI = dense_mm(dz_TH.T, x_TI, dtypes[0]) if needs[1] else None
            db1_H = dz_sums_H if needs[2] else None  # autograd casts it to the dtype of b1
        if needs[3]:
            h_TH = gelu(z_TH, ctx.approximate) if h_TH is None else h_TH
            dw2_OH = dense_mm(dy_TO.T, h_TH, dtypes[1])
        db2_O = column_sums(dy_TO) if needs[4] else None
        return dx_TI, dw1_HI, db1_H, dw2_OH, db2_O, *[None] * (1 + 2 * _FIELDS)
