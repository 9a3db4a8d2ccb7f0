"""2:4 dropout, alone and before a linear layer.

    forward      h24_TH  = 2 h ⊙ m          m: random, 2:4 along features and along tokens
                 y_TO    = h24_TH @ w_OH.T  sparse: h24
    backward     dh_TH   = 2 (dy @ w) ⊙ m   sparse: w.T, where its columns are packed
                 dw_OH   = dy_TO.T @ h24    sparse: h24.T, along tokens

The mask is drawn from its seed again in the backward, so nothing is kept for it but the seed.

Dimension key:  T tokens   H hidden   O output features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsetrain.autograd.inputs import by_rows, check_transforms, once
from sparsetrain.autograd.linear import check_linear
from sparsetrain.ops import column_sums, mask24, random24
from sparsetrain.products import Packed, pack
from sparsetrain.select import EXACT

_FIELDS = len(Packed._fields)


def dropout24(x: Tensor) -> Tensor:
    """x [..., H] under a random 2:4 mask, times 2; any dtype.

    The seed is drawn from PyTorch's generator of x's device, so `torch.manual_seed` fixes it. Of
    the last T % 4 rows a feature may be kept more or less often. Raises ValueError where H is no
    multiple of 4.
    """
    seed = _seed(x)
    check_transforms()
    return _Dropout.apply(x.reshape(-1, x.shape[-1]), seed).view(x.shape)


def dropout24_linear(x: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed) -> Tensor:
    """`dropout24(x) @ packed.T + bias`, with sparse products of what is left of x.

    x: [..., H]; weight: [O, H], which takes the gradient of the packed one; bias: [O] or None;
    returns [..., O]. packed: with a dense form, in the dtype of the products.
    """
    seed = _seed(x)
    check_linear(x, weight, mvue=False)
    return by_rows(_DropoutLinear, x, packed.dtype, seed, weight, bias, *packed)


def _seed(x: Tensor) -> Tensor:
    if x.ndim < 1 or x.shape[-1] % 4:
        raise ValueError(
            f"x {tuple(x.shape)}: 2:4 dropout keeps two of every four features, and their number "
            "is no multiple of 4; use nn.Dropout there"
        )
    return torch.randint(0, 2**62, (1,), device=x.device)


def _drop(x_TH: Tensor, seed: Tensor) -> Tensor:
    return mask24(x_TH, random24(x_TH.shape[0], x_TH.shape[1], seed), kept=2.0)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, seed: Tensor) -> Tensor:
        ctx.save_for_backward(seed)
        return _drop(x_TH, seed)

    @staticmethod
    @once
    def backward(ctx: Any, grad_TH: Tensor) -> tuple[Tensor, None]:
        (seed,) = ctx.saved_tensors
        return _drop(grad_TH, seed), None


class _DropoutLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TH: Tensor,
        seed: Tensor,
        weight_OH: Tensor,
        bias_O: Tensor | None,
        *w24: Any,
    ) -> Tensor:
        packed = Packed(*w24)
        assert packed.dense is not None, "packed with its dense form"
        mask = random24(x_TH.shape[0], x_TH.shape[1], seed)
        # Doubled before it is packed: exact, but where it overflows.
        h24 = pack(2 * x_TH, mask, EXACT, packed.spec.product, x_TH.dtype)
        # The seed is for the mask of dh, w for dh, h24 along tokens for dw.
        saved = *packed.for_t_mm().tensors, *h24.for_t_mm().tensors
        ctx.save_for_backward(seed, *saved)
        ctx.specs = packed.spec, h24.spec
        ctx.weight_dtype = weight_OH.dtype
        bias_O = None if bias_O is None else bias_O.to(x_TH.dtype)
        return h24.mm(packed.dense.T, bias_O)

    @staticmethod
    @once
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        seed, *saved = ctx.saved_tensors
        w24 = Packed(ctx.specs[0], *saved[: _FIELDS - 1])
        h24 = Packed(ctx.specs[1], *saved[_FIELDS - 1 :])
        needs, dtype = ctx.needs_input_grad, ctx.weight_dtype
        dx_TH = _drop(w24.t_mm(dy_TO.T, transpose_out=True), seed) if needs[0] else None
        dw_OH = h24.t_mm(dy_TO, transpose_out=True, dtype=dtype) if needs[2] else None
        db_O = column_sums(dy_TO) if needs[3] else None  # autograd gives it the dtype of the bias
        return dx_TH, None, dw_OH, db_O, *[None] * _FIELDS
