"""Squared ReLU made 2:4, and its gradient, as packed values.

Dimension key:  T tokens   H hidden features
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.ops import (
    mask24,
    select24,
    sparsify24,
    squared_relu24,
    squared_relu24_backward,
    unpack24,
)
from sparsetrain.products.packed import Packed, Spec
from sparsetrain.products.product import Product
from sparsetrain.select import Selection


def squared_relu_packed(z_TH: Tensor, selection: Selection, product: Product) -> Packed:
    """relu(z)² made 2:4 along features and along tokens, both orientations packed."""
    product = product.in_dtype(z_TH.dtype, z_TH.is_cuda)
    spec, rule = Spec(selection, product), selection.rule
    if product.packs:
        return Packed(spec, *squared_relu24(z_TH, rule))
    h_TH = F.relu(z_TH).square()
    if selection.both:
        return Packed(spec, dense=mask24(h_TH, select24(h_TH, rule)))
    values, meta, values_t, meta_t, _, _ = sparsify24(h_TH, rule)
    columns_TH = unpack24(values_t, meta_t)[:, : h_TH.shape[0]].T
    return Packed(spec, dense=unpack24(values, meta), dense_t=columns_TH)


def squared_relu_gradient(h24: Packed, dh_TH: Tensor) -> tuple[Packed, Tensor]:
    """dz = 2 relu(z) dh at the positions of h24, whose metadata it shares; and its sums over
    tokens. sqrt(h24) is relu(z) where it is kept."""
    spec = h24.spec
    if h24.dense is None:
        assert spec.selection is not None, "h24 is 2:4"
        packed: Any = h24[1:5]
        rule = spec.selection.rule
        values, values_t, sums = squared_relu24_backward(dh_TH, *packed, rule)  # pyright: ignore
        return Packed(spec, values, h24.meta, values_t, h24.meta_t), sums
    dtype, wide = dh_TH.dtype, torch.promote_types(dh_TH.dtype, torch.float32)
    rows_TH = _gradient(h24.dense.to(wide), dh_TH.to(wide))
    columns_TH = None
    if h24.dense_t is not None:
        columns_TH = _gradient(h24.dense_t.to(wide), dh_TH.to(wide)).to(dtype)
    return Packed(spec, dense=rows_TH.to(dtype), dense_t=columns_TH), rows_TH.sum(0)


def _gradient(h_TH: Tensor, dh_TH: Tensor) -> Tensor:
    # Exactly 0 where h is, of an infinite gradient too, as in reference/squared_relu24.py.
    return torch.where(h_TH == 0, 0, 2 * h_TH.sqrt() * dh_TH)
