"""Squared ReLU made 2:4, and its gradient, with rows in 8 bits, in plain PyTorch.

Dimension key:  R rows (tokens)   C columns (features)   R128 = padded_rows(R)

The rows, which products contract along, are quantized with a scale each; the columns, which
gradients of weights contract along, stay in the dtype of z. By a rule with one exact mask for both
orientations the columns hold all of h, so its rows are not needed in 16 bits: dz is made from the
columns of h, and its rows lie where those of h do.
"""

import torch
from torch import Tensor

from sparsetrain.reference.pack24 import META_ORDER_8BIT, positions24, unpack24
from sparsetrain.reference.quantize import quantize
from sparsetrain.reference.quantize24 import narrow24
from sparsetrain.reference.squared_relu24 import squared_relu24
from sparsetrain.select import Rule


def squared_relu24_quantize(
    z_RC: Tensor, rule: Rule, dtype: torch.dtype, power_of_two: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give values, meta and scales of the rows of h, and values_t and meta_t of its columns."""
    values, meta, values_t, meta_t = squared_relu24(z_RC, rule)
    return *narrow24(values, meta, dtype, power_of_two), values_t, meta_t


def squared_relu24_backward_quantize(
    grad_h_RC: Tensor,
    meta: Tensor,
    values_t: Tensor,
    meta_t: Tensor,
    dtype: torch.dtype,
    power_of_two: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give values and scales of the rows of dz = 2 sqrt(h) grad_h, values_t of its columns, sums.

    column_sums [C] adds up dz before it is rounded to grad_h's dtype.
    """
    R, C = grad_h_RC.shape
    wide = torch.promote_types(grad_h_RC.dtype, torch.float32)
    h_RC = unpack24(values_t, meta_t)[:, :R].T.to(wide)
    dz_RC = torch.where(h_RC == 0, 0, 2 * h_RC.sqrt() * grad_h_RC.to(wide))
    rounded_RC = dz_RC.to(grad_h_RC.dtype)
    rows = _at(rounded_RC, positions24(meta, R, C // 4, META_ORDER_8BIT))
    padded_CR = rounded_RC.new_zeros(C, values_t.shape[1] * 2)
    padded_CR[:, :R] = rounded_RC.T
    columns = _at(padded_CR, positions24(meta_t, C, padded_CR.shape[1] // 4))
    return *quantize(rows, dtype, "row", power_of_two), columns, dz_RC.sum(dim=0)


def _at(x_RC: Tensor, position_RG2: Tensor) -> Tensor:
    """The values of x at the positions kept, [R, C/2]."""
    R, C = x_RC.shape
    return x_RC.contiguous().reshape(R, C // 4, 4).gather(-1, position_RG2).reshape(R, C // 2)
