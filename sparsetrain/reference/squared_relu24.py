"""Squared ReLU made 2:4, and its gradient on the same positions.

Dimension key:  R rows (tokens)   C columns (features)   R128 = padded_rows(R)
                G groups of four in a row

The activation of Primer (So et al. 2021, arXiv 2109.08668), sparse as in Haziza et al. 2025.
h = relu(z)² holds all that the gradient needs: where h > 0, z = sqrt(h), so dh/dz = 2 sqrt(h);
where h = 0 the gradient is 0. A value the mask pruned takes no part in the output, so its gradient
is 0 too. So the packed h is enough: neither z nor a mask is kept, and dz, which lies where h lies,
shares the metadata of h. (A z so small that its square is 0 in its dtype has gradient 0.)
"""

import torch
from torch import Tensor

from sparsetrain.reference.pack24 import pad_rows24, positions24
from sparsetrain.reference.sparsify24 import sparsify24
from sparsetrain.select import Rule


def squared_relu24(z_RC: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pack h = relu(z)² in both orientations. Returns values, meta, values_t, meta_t.

    h is rounded to z's dtype before the mask is chosen. NaN stays NaN.
    """
    h_RC = z_RC.relu().square()
    values, meta, values_t, meta_t, _, _ = sparsify24(h_RC, rule, None, None)
    return values, meta, values_t, meta_t


def squared_relu24_backward(
    grad_h_RC: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give dz = 2 sqrt(h) grad_h where the packed h lies, in both orientations.

    dz goes with the metadata of h. Where h is 0, dz is 0 whatever grad_h is. Each orientation is
    made from its own; where one mask serves both, either could be made from the other, bit for bit.
    column_sums [C] adds up the row orientation before it is rounded to the dtype; with it the
    gradient of a bias. Computed in float32 (float64 for float64), as column_sums is.
    Returns values [R, C/2], values_t [C, R128/2], column_sums [C].
    """
    R, C = grad_h_RC.shape
    wide = torch.promote_types(grad_h_RC.dtype, torch.float32)
    grad_RC = grad_h_RC.to(wide)
    dz, position_RG2 = _packed_gradient(grad_RC, values.to(wide), meta)
    dz_t, _ = _packed_gradient(pad_rows24(grad_RC).T, values_t.to(wide), meta_t)
    dense_RG4 = dz.new_zeros(R, C // 4, 4)
    dense_RG4.scatter_(-1, position_RG2, dz.reshape(position_RG2.shape))
    column_sums = dense_RG4.reshape(R, C).sum(dim=0)
    return dz.to(grad_h_RC.dtype), dz_t.to(grad_h_RC.dtype), column_sums


def _packed_gradient(grad_RC: Tensor, values: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
    R, C = grad_RC.shape
    position_RG2 = positions24(meta, R, C // 4)
    grad = grad_RC.reshape(R, C // 4, 4).gather(-1, position_RG2).reshape(R, C // 2)
    dz = torch.where(values == 0, 0, 2 * values.sqrt() * grad)
    return dz.contiguous(), position_RG2
