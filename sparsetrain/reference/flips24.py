"""How much a mask changed: the numerator of the flip rate (Hu et al., ICML 2024)."""

import torch
from torch import Tensor


def flips24(mask: Tensor, previous: Tensor) -> Tensor:
    """Count the bits that differ between two masks of bits, int64 scalar."""
    shift = torch.arange(8, device=mask.device, dtype=torch.uint8)
    return ((mask ^ previous)[..., None] >> shift & 1).sum(dtype=torch.int64)
