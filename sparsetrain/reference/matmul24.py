"""The product of a packed 2:4 matrix and a dense one.

Dimension key:  M rows of the packed matrix   K its columns   K0 rows of b   N columns of b
"""

import torch
from torch import Tensor

from sparsetrain.reference.pack24 import unpack24


def matmul24(
    values: Tensor,
    meta: Tensor,
    b_K0N: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype | None,
) -> Tensor:
    """Multiply by unpacking. Returns [M, N], or its transpose [N, M], contiguous, plus the bias.

    K0 is K, or padded_rows(K0) is: columns of the packed matrix past K0 meet rows of zeros, so they
    are left out. bias is along the last dimension of what is returned. The product accumulates as
    torch.matmul does for the dtype; with a wider out_dtype it is taken in out_dtype.
    Zeros multiply: a non-finite value of b turns NaN where the packed matrix was pruned.
    """
    compute = out_dtype or values.dtype
    a_MK = unpack24(values, meta)[:, : b_K0N.shape[0]].to(compute)
    b_K0N = b_K0N.to(compute)
    left, right = (b_K0N.T, a_MK.T) if transpose_out else (a_MK, b_K0N)
    if bias is None:
        return torch.mm(left, right).contiguous()
    return torch.addmm(bias.to(compute), left, right).contiguous()
