"""GELU, in plain PyTorch.

z Φ(z), Φ the distribution function of the normal distribution (Hendrycks and Gimpel 2016, arXiv
1606.08415), or with "tanh" their approximation of it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Approximate = Literal["none", "tanh"]
APPROXIMATIONS: tuple[Approximate, ...] = ("none", "tanh")


def gelu(z_RC: Tensor, approximate: Approximate) -> Tensor:
    """Give gelu(z), [R, C] contiguous: computed in float32 (float64 for float64), rounded once."""
    wide = z_RC.to(torch.promote_types(z_RC.dtype, torch.float32)).contiguous()
    return F.gelu(wide, approximate=approximate).to(z_RC.dtype)
