"""Dense products, which gradients of float32 weights leave without a rounding between."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)
"""The 16-bit dtypes, which sparse tensor cores multiply and sum in float32."""


def dense_mm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b in `dtype`; float32 of 16-bit operands leaves a GPU's product without a rounding
    between, and without a second pass."""
    if a.is_cuda and dtype == torch.float32 and a.dtype in HALVES:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).to(dtype)


def dense_product(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """a @ b + bias or its transpose, in `dtype` (a's if None); the bias is along the last
    dimension of what is returned, and None where dtype is another than a's."""
    if dtype in (None, a.dtype):
        return F.linear(b.T, a, bias) if transpose_out else F.linear(a, b.T, bias)
    assert bias is None, "gradients of weights have none"
    return dense_mm(b.T, a.T, dtype) if transpose_out else dense_mm(a, b, dtype)
