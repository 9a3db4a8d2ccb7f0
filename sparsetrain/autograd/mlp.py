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

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsetrain.autograd.linear import check_weight, compute_dtype
from sparsetrain.autograd.operands import (
    Engine,
    engine_for,
    packed_rows,
    saved_operand,
    sparse_squared_relu,
)
from sparsetrain.ops import (
    Forms24,
    column_sums,
    empty_forms24,
    mask24,
    pack_into24,
    select24,
)
from sparsetrain.pattern import Rule


class MlpWeights(NamedTuple):
    """The weights of an MLP as its products want them, all in the dtype of the products.

    dense1_HI, dense2_OH: whole, or with zeros where there is a mask. w1 packed [H, I] and w2.T
    packed [H, O], of weights that have a mask, unless the engine is `masked`; else None.
    """

    dense1_HI: Tensor
    dense2_OH: Tensor
    values1: Tensor | None = None
    meta1: Tensor | None = None
    values2_t: Tensor | None = None
    meta2_t: Tensor | None = None


def squared_relu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    mask1: Tensor | Rule | None = None,
    mask2: Tensor | Rule | None = None,
    rule: Rule = "transposable",
    engine: Engine = "masked",
) -> Tensor:
    """`relu(x @ w1.T + b1)² @ w2.T + b2` with 2:4 hidden activations.

    x: [..., I]; w1: [H, I]; w2: [O, H]; biases [H] and [O] or None; returns [..., O].
    mask1, mask2: transposable masks of the weights (bits, as `ops.select24`); or the rule, any but
        `row`, by which they are chosen from the weights now; None for dense.
    rule: `row` gives each orientation of the activations its own best mask; the others serve both
        with one mask on tiles of 4 tokens × 4 features.
    Raises ValueError for hidden features, or input features under mask1, that are not a multiple
    of 4.
    """
    check_mlp(x, w1, w2)
    packed = pack_mlp24(w1, w2, mask1, mask2, compute_dtype(x, w1), engine)
    return packed_squared_relu_mlp24(x, w1, b1, w2, b2, packed, rule=rule, engine=engine)


def pack_mlp24(
    w1: Tensor,
    w2: Tensor,
    mask1: Tensor | Rule | None,
    mask2: Tensor | Rule | None,
    dtype: torch.dtype,
    engine: Engine,
    into: MlpWeights | None = None,
) -> MlpWeights:
    """The weights of `packed_squared_relu_mlp24`, in the dtype of its products. Masks as in
    `squared_relu_mlp24`; into as in `pack_linear24`."""
    packs = engine_for(engine, dtype, w1.is_cuda) != "masked"
    into1 = into2 = None
    if into is not None:
        into1 = Forms24(into.values1, into.meta1, dense=into.dense1_HI)
        into2 = Forms24(values_t=into.values2_t, meta_t=into.meta2_t, dense=into.dense2_OH)
    forms1 = _forms(w1.detach(), mask1, False, dtype, packs, into1)
    forms2 = _forms(w2.detach(), mask2, True, dtype, packs, into2)
    assert forms1.dense is not None
    assert forms2.dense is not None
    return MlpWeights(
        forms1.dense, forms2.dense, forms1.values, forms1.meta, forms2.values_t, forms2.meta_t
    )


def _forms(
    weight: Tensor,
    mask: Tensor | Rule | None,
    transposed: bool,
    dtype: torch.dtype,
    packs: bool,
    into: Forms24 | None,
) -> Forms24:
    """The weight dense, and packed in one orientation where it has a mask."""
    if mask is None:
        if into is None or into.dense is None:
            return Forms24(dense=weight.to(dtype))
        return Forms24(dense=into.dense.copy_(weight))
    known = weight.dtype in (dtype, torch.float32)  # kernels round float32 alone
    rule: Rule = mask if isinstance(mask, str) else "transposable"
    bits = None if isinstance(mask, str) else mask
    if bits is None and (not packs or not known or rule == "row"):
        bits = select24(weight, rule)  # before the weight is rounded
    weight = weight if known else weight.to(dtype)
    if bits is not None and not packs:
        return Forms24(dense=mask24(weight, bits, dtype=dtype))
    if into is None:
        into = empty_forms24(weight, dtype, rows=not transposed, columns=transposed, dense=True)
    return pack_into24(weight, bits, rule, *into)


def packed_squared_relu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    packed: MlpWeights,
    *,
    rule: Rule,
    engine: Engine,
) -> Tensor:
    """`squared_relu_mlp24` with what `pack_mlp24` made of the weights, which only take the
    gradients."""
    check_mlp(x, w1, w2)
    x_TI = x.to(packed.dense1_HI.dtype).flatten(0, -2)
    # Everything is in its dtype now; autocast would square in float32.
    with torch.autocast(x.device.type, enabled=False):
        y_TO = _SquaredReluMlp24.apply(x_TI, w1, b1, w2, b2, *packed, rule, engine)
    return y_TO.unflatten(0, x.shape[:-1])


def check_mlp(x: Tensor, w1: Tensor, w2: Tensor) -> None:
    """Refuse what does not multiply; under anomaly detection weights that hold NaN."""
    if x.ndim < 2 or x.shape[-1] != w1.shape[1] or w1.shape[0] != w2.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, w1 {tuple(w1.shape)}, w2 {tuple(w2.shape)}: "
            "expected [..., I] of at least 2 dimensions, [H, I] and [O, H]"
        )
    check_weight(w1)
    check_weight(w2)


class _SquaredReluMlp24(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        w1_HI: Tensor,
        b1_H: Tensor | None,
        w2_OH: Tensor,
        b2_O: Tensor | None,
        dense1_HI: Tensor,
        dense2_OH: Tensor,
        values1: Tensor | None,
        meta1: Tensor | None,
        values2_t: Tensor | None,
        meta2_t: Tensor | None,
        rule: Rule,
        engine: Engine,
    ) -> Tensor:
        dtype = x_TI.dtype
        ctx.rule, ctx.engine = rule, engine_for(engine, dtype, x_TI.is_cuda)
        ctx.dtypes = [None if t is None else t.dtype for t in (w1_HI, b1_H, w2_OH, b2_O)]
        b1_H = None if b1_H is None else b1_H.to(dtype)
        b2_O = None if b2_O is None else b2_O.to(dtype)
        if values1 is None or meta1 is None:
            z_TH = F.linear(x_TI, dense1_HI, b1_H)
        else:
            z_TH = packed_rows((values1, meta1), ctx.engine).mm(x_TI.T, b1_H, transpose_out=True)
        h24 = sparse_squared_relu(z_TH, rule, ctx.engine)
        # h24 stands in for z: sqrt(h24) is relu(z) where it is kept. The backward needs w2 as the
        # sparse operand where it is packed, else dense.
        dense2 = dense2_OH if values2_t is None else None
        ctx.save_for_backward(x_TI, dense1_HI, dense2, values2_t, meta2_t, *h24)
        return h24.mm(dense2_OH.T, b2_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, dense1_HI, dense2_OH, values2_t, meta2_t, *saved = ctx.saved_tensors
        h24 = saved_operand(saved, ctx.engine)
        if values2_t is None:
            dh_TH = dy_TO @ dense2_OH
        else:
            w2_t = packed_rows((values2_t, meta2_t), ctx.engine)
            dh_TH = w2_t.mm(dy_TO.T, transpose_out=True)
        dz24, dz_sums_H = h24.squared_relu_backward(dh_TH, ctx.rule)
        needs, dtypes = ctx.needs_input_grad, ctx.dtypes
        dx_TI = dz24.mm(dense1_HI) if needs[0] else None
        dw1_HI = dz24.t_mm(x_TI, dtype=dtypes[0]) if needs[1] else None
        db1_H = dz_sums_H.to(dtypes[1]) if needs[2] else None
        dw2_OH = h24.t_mm(dy_TO, transpose_out=True, dtype=dtypes[2]) if needs[3] else None
        db2_O = column_sums(dy_TO).to(dtypes[3]) if needs[4] else None
        return dx_TI, dw1_HI, db1_H, dw2_OH, db2_O, *[None] * 8
