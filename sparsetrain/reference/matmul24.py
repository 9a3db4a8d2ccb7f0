"""The product of a packed 2:4 matrix and a dense one, and what may follow it.

    out = activation(A b + bias) + residual

Computed in float32 (float64 for float64), from the first product to the last sum, and rounded once,
to the dtype of what is returned.

Dimension key:  M rows of the packed matrix A   K its columns   K0 rows of b   N columns of b
                P, Q the rows and columns of what is returned: M, N, or N, M when transposed
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.reference.pack24 import unpack24

Activation = Literal["none", "squared_relu", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "squared_relu", "gelu")


def matmul24(
    values: Tensor,
    meta: Tensor,
    b_K0N: Tensor,
    bias_Q: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype | None,
    activation: Activation,
    residual_PQ: Tensor | None,
) -> Tensor:
    """Multiply by unpacking, and finish. Returns [P, Q] contiguous in out_dtype or that of values.

    activation is "squared_relu", relu(x)², or "gelu", the exact x Φ(x); a NaN stays NaN.
    """
    out_PQ = activate(linear24(values, meta, b_K0N, bias_Q, transpose_out), activation)
    if residual_PQ is not None:
        out_PQ = out_PQ + residual_PQ.to(out_PQ.dtype)
    return out_PQ.to(out_dtype or values.dtype)


def linear24(
    values: Tensor, meta: Tensor, b_K0N: Tensor, bias_Q: Tensor | None, transpose_out: bool
) -> Tensor:
    """Give A b, or its transpose, plus the bias: [P, Q] contiguous in float32 (or float64).

    K0 is K, or padded_rows(K0) is: columns of A past K0 meet rows of zeros, so they are left out.
    Zeros multiply: a non-finite value of b gives NaN where A was pruned. A kernel for sparse tensor
    cores never meets those.
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    a_MK = unpack24(values, meta)[:, : b_K0N.shape[0]].to(wide)
    b_K0N = b_K0N.to(wide)
    left, right = (b_K0N.T, a_MK.T) if transpose_out else (a_MK, b_K0N)
    with torch.autocast(b_K0N.device.type, enabled=False):  # it would round the operands
        out_PQ = torch.mm(left, right).contiguous()
    return out_PQ if bias_Q is None else out_PQ + bias_Q.to(wide)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation by its name."""
    if activation == "squared_relu":
        return x.relu().square()
    if activation == "gelu":
        return F.gelu(x)
    assert activation == "none", activation
    return x
