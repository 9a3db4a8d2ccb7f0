"""The six products of an MLP with squared ReLU whose hidden activations are 2:4.

    forward      z_TH   = x_TI    @ w1_HI.T      sparse: w1, where it is 2:4
                 h24_TH = 2:4 of relu(z)²        along features and along tokens
                 y_TO   = h24_TH  @ w2_OH.T      sparse: h24
    backward     dh_TH  = dy_TO   @ w2_OH        sparse: w2.T, where it is 2:4
                 dz24   = 2 sqrt(h24) dh         at the positions of h24
                 dx_TI  = dz24_TH @ w1_HI        sparse: dz24
                 dw2_OH = dy_TO.T @ h24_TH       sparse: h24.T, along tokens
                 dw1_HI = dz24.T  @ x_TI         sparse: dz24.T, along tokens

Four of the six are sparse with dense weights ("activations"), all six with 2:4 weights ("all"). A
sparse tensor core multiplies sparse by dense, so where the activation is the sparse operand a 2:4
weight enters as a dense tensor with zeros: w1 has its rows packed and its dense form, w2 its
columns and its dense form. In fp8 those of z, y, dh and dx that have a sparse operand read both of
theirs in 8 bits, dense forms of 2:4 weights too, which the pass that packs them makes; dw2 and dw1
stay wide.

Source: Haziza et al. 2025 (activation 2:4 with squared ReLU, per-orientation masks).

Dimension key:  T tokens   I input   H hidden   O output features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsetrain.autograd.inputs import by_rows, check_mlp, once
from sparsetrain.ops import column_sums
from sparsetrain.products import Packed, for_gradient, squared_relu_gradient, squared_relu_packed
from sparsetrain.select import Selection

_FIELDS = len(Packed._fields)


def packed_squared_relu_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    packed1: Packed,
    packed2: Packed,
    *,
    selection: Selection,
) -> Tensor:
    """`relu(x @ packed1.T + b1)² @ packed2.T + b2` with 2:4 hidden activations.

    x: [..., I]; w1: [H, I] and w2: [O, H] take the gradients of the packed weights; biases [H] and
    [O] or None; returns [..., O]. packed1, packed2: 2:4 with a dense form, or unpruned.
    selection: of the activations. `row` gives each orientation its own best mask; the others serve
        both with one mask on tiles of 4 tokens × 4 features.
    Raises ValueError for hidden features that are not a multiple of 4.
    """
    check_mlp(x, w1, w2)
    return by_rows(_SquaredReluMlp, x, packed1.dtype, w1, b1, w2, b2, selection, *packed1, *packed2)


class _SquaredReluMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        w1_HI: Tensor,
        b1_H: Tensor | None,
        w2_OH: Tensor,
        b2_O: Tensor | None,
        selection: Selection,
        *packed: Any,
    ) -> Tensor:
        w1_24, w2_24 = Packed(*packed[:_FIELDS]), Packed(*packed[_FIELDS:])
        dtype, ctx.dtypes = x_TI.dtype, (w1_HI.dtype, w2_OH.dtype)
        b1_H = None if b1_H is None else b1_H.to(dtype)
        b2_O = None if b2_O is None else b2_O.to(dtype)
        z_TH = w1_24.mm(x_TI.T, b1_H, transpose_out=True)
        h24 = squared_relu_packed(z_TH, selection, w1_24.spec.product)
        # h24 stands in for z: sqrt(h24) is relu(z) where it is kept. x is for dw1, w1 for dx, w2
        # for dh.
        ctx.specs = w1_24.spec, w2_24.spec, h24.spec
        saved = *w1_24.for_b().tensors, *w2_24.for_t_mm().tensors, *for_gradient(h24).tensors
        ctx.save_for_backward(x_TI, *saved)
        return h24.narrowed().mm(w2_24.as_b_t, b2_O)

    @staticmethod
    @once
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, *saved = ctx.saved_tensors
        (spec1, spec2, spec_h), n = ctx.specs, _FIELDS - 1
        w1_24, w2_24 = Packed(spec1, *saved[:n]), Packed(spec2, *saved[n : 2 * n])
        h24 = Packed(spec_h, *saved[2 * n :])
        dh_TH = w2_24.t_mm(dy_TO.T, transpose_out=True)
        dz24, dz_sums_H = squared_relu_gradient(h24, dh_TH)
        needs, dtypes = ctx.needs_input_grad, ctx.dtypes
        dx_TI = dz24.narrowed().mm(w1_24.as_b) if needs[0] else None
        dw1_HI = dz24.t_mm(x_TI, dtype=dtypes[0]) if needs[1] else None
        db1_H = dz_sums_H if needs[2] else None  # autograd casts it to the dtype of b1
        dw2_OH = h24.t_mm(dy_TO, transpose_out=True, dtype=dtypes[1]) if needs[3] else None
        db2_O = column_sums(dy_TO) if needs[4] else None
        return dx_TI, dw1_HI, db1_H, dw2_OH, db2_O, *[None] * (1 + 2 * _FIELDS)
