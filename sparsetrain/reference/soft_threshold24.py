"""The continuous 2:4 projection of S-STE (Hu et al., NeurIPS 2024, arXiv 2409.09099).

Dimension key:  R rows   C columns   G groups of four in a row

In every four consecutive values of a row, t is the second smallest magnitude, and
S(a) = sign(a) max(|a| - t, 0): at most two are left, and no value jumps as weights change.
"""

import torch
from torch import Tensor


def soft_threshold24(x_RC: Tensor, scale: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Give scale * S(x), dense [R, C] in `dtype`, x's if None. scale: float32, one element.

    Computed in float32 (float64 for float64) and rounded once. A group with a NaN is NaN.
    """
    wide = torch.promote_types(x_RC.dtype, torch.float32)
    shrunk_RC = _shrunk(x_RC.to(wide))
    return (scale.reshape(()).to(wide) * shrunk_RC).to(dtype or x_RC.dtype).contiguous()


def soft_scale24(x_RC: Tensor) -> Tensor:
    """Give the least-squares scale beta = <x, S(x)> / <S(x), S(x)>, float32 [1]; 1 if S(x) is 0.

    S-STE computes it once at the start of training and keeps it. Sums are float64.
    """
    x_RC = x_RC.double()
    shrunk = _shrunk(x_RC)
    norm = shrunk.square().sum()
    beta = torch.where(norm == 0, 1.0, (x_RC * shrunk).sum() / norm)
    return beta.to(torch.float32).reshape(1)


def _shrunk(x_RC: Tensor) -> Tensor:
    R, C = x_RC.shape
    x_RG4 = x_RC.reshape(R, C // 4, 4)
    a0, a1, a2, a3 = x_RG4.abs().unbind(dim=-1)
    threshold = torch.minimum(
        torch.maximum(torch.minimum(a0, a1), torch.minimum(a2, a3)),
        torch.minimum(torch.maximum(a0, a1), torch.maximum(a2, a3)),
    )
    magnitude = (x_RG4.abs() - threshold[..., None]).clamp(min=0)
    return torch.copysign(magnitude, x_RG4).reshape(R, C)
