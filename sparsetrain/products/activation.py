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
from sparsetrain.ops.squared_relu24_quantize import in_one_pass
from sparsetrain.products.fp8 import E4M3
from sparsetrain.products.packed import Packed, Spec
from sparsetrain.products.product import Product
from sparsetrain.select import Selection


def squared_relu_packed(z_TH: Tensor, selection: Selection, product: Product) -> Packed:
    """relu(z)² made 2:4 along features and along tokens, both orientations packed.

    With a format the rows are 8-bit where one pass makes them so; else `narrowed()` does.
    """
    product = product.in_dtype(z_TH.dtype, z_TH.is_cuda)
    spec, rule = Spec(selection, product), selection.rule
    if product.format is not None and in_one_pass(z_TH, rule, E4M3):
        values, meta, scales, *columns = product.format.squared_relu(z_TH, rule)
        spec = Spec(selection, product, z_TH.dtype)
        return Packed(spec, values, meta, *columns, scales=scales)
    if product.packs:
        return Packed(spec, *squared_relu24(z_TH, rule))
    h_TH = F.relu(z_TH).square()
    if selection.both:
        return Packed(spec, dense=mask24(h_TH, select24(h_TH, rule)))
    values, meta, values_t, meta_t, _, _ = sparsify24(h_TH, rule)
    columns_TH = unpack24(values_t, meta_t)[:, : h_TH.shape[0]].T
    return Packed(spec, dense=unpack24(values, meta), dense_t=columns_TH)


def for_gradient(h24: Packed) -> Packed:
    """What `squared_relu_gradient` and `t_mm` read of h24: of 8-bit rows where they lie."""
    return h24 if h24.scales is None else h24._replace(values=None, scales=None)


def squared_relu_gradient(h24: Packed, dh_TH: Tensor) -> tuple[Packed, Tensor]:
    """dz = 2 relu(z) dh at the positions of h24, whose metadata it shares; and its sums over
    tokens. sqrt(h24) is relu(z) where it is kept."""
    spec = h24.spec
    if h24.dense is None and h24.values is None:
        return _gradient_8bit(h24, dh_TH)
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


def _gradient_8bit(h24: Packed, dh_TH: Tensor) -> tuple[Packed, Tensor]:
    format = h24.spec.product.format
    assert format is not None, "its rows were 8-bit"
    given: Any = h24.meta, h24.values_t, h24.meta_t
    values, scales, values_t, sums = format.squared_relu_gradient(dh_TH, *given)
    return Packed(h24.spec, values, h24.meta, values_t, h24.meta_t, scales=scales), sums


def _gradient(h_TH: Tensor, dh_TH: Tensor) -> Tensor:
    # Exactly 0 where h is, of an infinite gradient too, as in reference/squared_relu24.py.
    return torch.where(h_TH == 0, 0, 2 * h_TH.sqrt() * dh_TH)
