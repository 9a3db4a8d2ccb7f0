"""The product of a packed 2:4 matrix and a dense one, both 8-bit with scales.

    out = (A * scales) (b * scales_b) + bias

Products of 8-bit values are summed in float32 (those of int8 exactly), unscaled: over all of K
where no scale ends within it, else over 128 of K at a time. Such a sum is multiplied by the scale
of A, then by that of b. The sums of 128 of K are added in order, then the bias. All of this is
float32, rounded once at the end.

Dimension key:  M rows of the packed matrix A   K its columns   K0 rows of b   N columns of b
                P, Q the rows and columns of what is returned: M, N, or N, M when transposed
"""

import torch
from torch import Tensor

from sparsetrain.reference.pack24 import unpack24
from sparsetrain.reference.quantize import BLOCK, spread


def scaled_matmul24(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b_K0N: Tensor,
    scales_b: Tensor,
    bias_Q: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype,
) -> Tensor:
    """Multiply by unpacking. Returns [P, Q] contiguous in out_dtype.

    scales: of A, as reference/quantize.py shapes them. scales_b: those of b.T, transposed: [1, N],
    blocks or [1, 1]. K0 is K, or padded_rows(K0) is: columns of A past K0 meet rows of zeros.
    """
    K0, N = b_K0N.shape
    a_MK0 = unpack24(values, meta)[:, :K0]
    M = a_MK0.shape[0]
    blocks_a, blocks_b = scales.shape[1], scales_b.shape[0]
    step = max(1, K0) if blocks_a == blocks_b == 1 else BLOCK
    out_MN = torch.zeros(M, N, dtype=torch.float32, device=b_K0N.device)
    for block, start in enumerate(range(0, K0, step)):
        part = slice(start, start + step)
        scale_a = spread(scales.narrow(1, min(block, blocks_a - 1), 1), M, N)
        scale_b = spread(scales_b.narrow(0, min(block, blocks_b - 1), 1), M, N)
        out_MN += _sums(a_MK0[:, part], b_K0N[part]) * scale_a * scale_b
    out_PQ = out_MN.T if transpose_out else out_MN
    if bias_Q is not None:
        out_PQ = out_PQ + bias_Q.float()
    return out_PQ.to(out_dtype).contiguous()


def _sums(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """A b, unscaled, in float32."""
    wide = torch.float64 if a_MK.dtype == torch.int8 else torch.float32  # whole numbers: exact
    with torch.autocast(b_KN.device.type, enabled=False):
        return torch.mm(a_MK.to(wide), b_KN.to(wide)).float()
