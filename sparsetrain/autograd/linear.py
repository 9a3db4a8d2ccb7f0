"""The three products of a linear layer whose weight is sparse.

    forward      out_TO    = x_TI      @ w24_OI.T    sparse: w24
    grad input   grad_x_TI = grad_TO   @ w24_OI      sparse: w24.T, where its columns are packed
    grad weight  grad_w_OI = grad_TO.T @ x_TI        dense, or grad.T sparse along tokens (MVUE)

The gradient of the weight is that of w24, passed straight through to all of the weight. In fp8
forward and grad input multiply w24 and w24.T, x and grad as they are quantized; grad weight stays
in the dtype of x.

Dimension key:  T tokens   I input features   O output features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsetrain.autograd.inputs import by_rows, check_weight, compute_dtype, once
from sparsetrain.ops import column_sums, mvue24
from sparsetrain.products import FP8, Engine, Packed, dense_mm, pack, pack_columns, product_of
from sparsetrain.select import EXACT, Selection


def linear24(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    selection: Selection = EXACT,
    mvue: bool = False,
    engine: Engine = "masked",
    format: FP8 | None = None,
) -> Tensor:
    """`F.linear` with a weight that is 2:4, and the straight-through gradient for it.

    x: [..., I]; weight: [O, I], dense, the master copy; bias: [O] or None; returns [..., O].
    mask: bits [O, ceil(I/8)] as `ops.select24` gives them; None chooses them from the weight now.
    selection: how the mask is, or was, chosen. `exact` and `greedy` make grad input sparse as well.
    mvue: grad weight from an unbiased 2:4 sample of grad.T along tokens
        (Chmiel et al., ICLR 2023) instead of exactly.
    engine: `masked` (dense products with zeros), `native` (packed operands) or `aten` (packed,
        PyTorch's own products: compute capability 8.x); see `products.product`.
    format: FP8 for a forward and grad input in 8 bits, with engine="native": on a CPU, and on GPUs
        of compute capability 9.0.

    Under autocast the mask is chosen from the master weight and the products run in the autocast
    dtype; float64 stays float64, as in `F.linear`. float32, float64, bfloat16, float16. Raises
    ValueError for features that are not a multiple of 4 (output features with `mvue` only) and for
    dtypes that differ outside autocast.
    """
    check_linear(x, weight, mvue)
    dtype, product = compute_dtype(x, weight), product_of(engine, format)
    w24 = pack(weight.detach(), mask, selection, product, dtype)
    return packed_linear(x, weight, bias, w24, mvue=mvue)


def packed_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, w24: Packed, *, mvue: bool = False
) -> Tensor:
    """`x @ w24.T + bias`; the gradient of w24 goes to weight [O, I].

    x: [..., I]. The products run in the dtype of `w24`, under autocast or not.
    """
    check_linear(x, weight, mvue)
    return by_rows(_Linear, x, w24.dtype, weight, bias, mvue, *w24)


def check_linear(x: Tensor, weight: Tensor, mvue: bool) -> None:
    """Refuse what does not multiply; under anomaly detection a weight that holds NaN."""
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)}: "
            "expected x [..., I] and weight [O, I]"
        )
    if mvue and weight.shape[0] % 4 != 0:
        raise ValueError(
            f"weight has {weight.shape[0]} output features, not a multiple of 4, which mvue=True "
            "needs: pass mvue=False"
        )
    check_weight(weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        mvue: bool,
        *w24: Any,
    ) -> Tensor:
        packed = Packed(*w24)
        # x for grad weight; what grad input reads of w24 as it is now, because the mask and the
        # weight may be others by the backward.
        ctx.save_for_backward(x_TI, *packed.for_t_mm().tensors)
        ctx.spec, ctx.mvue, ctx.weight_dtype = packed.spec, mvue, weight_OI.dtype
        bias_O = None if bias_O is None else bias_O.to(x_TI.dtype)
        return packed.mm(x_TI.T, bias_O, transpose_out=True)

    @staticmethod
    @once
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, *saved = ctx.saved_tensors
        w24, needs = Packed(ctx.spec, *saved), ctx.needs_input_grad
        grad_x = w24.t_mm(grad_TO.T, transpose_out=True) if needs[0] else None
        grad_weight = None
        if needs[1] and ctx.mvue:
            seed = torch.randint(0, 2**62, (1,), device=grad_TO.device)
            sample = pack_columns(*mvue24(grad_TO, seed), grad_TO.shape[0], ctx.spec.product)
            grad_weight = sample.t_mm(x_TI, dtype=ctx.weight_dtype)
        elif needs[1]:
            grad_weight = dense_mm(grad_TO.T, x_TI, ctx.weight_dtype)
        grad_bias = column_sums(grad_TO) if needs[2] else None  # autograd casts it to the bias's
        return grad_x, grad_weight, grad_bias, None, *[None] * len(Packed._fields)
