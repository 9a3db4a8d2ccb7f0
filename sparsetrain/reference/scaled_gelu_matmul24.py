"""GELU of the product of a packed 2:4 matrix and a dense one, 8-bit all, in plain PyTorch.

    q = gelu((A * scales) (b * scales_b) transposed + bias) * factors_out

Dimension key:  M rows of the packed matrix A   K its columns   K0 rows of b   N columns of b
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.quantize import LARGEST
from sparsetrain.reference.scaled_matmul24 import scaled_matmul24

E4M3 = torch.float8_e4m3fn


def scaled_gelu_matmul24(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b_K0N: Tensor,
    scales_b: Tensor,
    bias_M: Tensor | None,
    approximate: Approximate,
    factors_out_N1: Tensor,
) -> Tensor:
    """Multiply by unpacking, in float32 up to the one rounding at the end. Returns q [N, M]; what
    is above 448 becomes 448."""
    given = values, meta, scales, b_K0N, scales_b, bias_M
    h_NM = F.gelu(scaled_matmul24(*given, True, torch.float32), approximate=approximate)
    q_NM = h_NM * factors_out_N1
    return q_NM.clamp(-LARGEST[E4M3], LARGEST[E4M3]).to(E4M3)
